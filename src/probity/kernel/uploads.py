"""From a stream to a blob that a row refers to, without files that nobody knows.

A blob is garbage until a row refers to it: `upload` notes its key before the first byte is stored, `keep` strikes the note in the
transaction of the row that refers to it, `discard` puts it back in the transaction that removes the row. `collect` deletes what stands
there too long.
"""

from collections.abc import AsyncIterable
from datetime import timedelta
from typing import ClassVar, Final

import structlog

from probity.kernel.blobs import BlobRef, BlobStore, new_blob_key
from probity.kernel.clock import Clock
from probity.kernel.db import Database, Tx, execute, fetch_rows
from probity.kernel.errors import Conflict, Unavailable
from probity.kernel.principal import OrgId, Principal
from probity.kernel.tasks import Task, TaskContext

log = structlog.get_logger(__name__)

_UNCLAIMED_FOR: Final = timedelta(hours=24)
_BATCH: Final = 200


class UploadExpired(Conflict):
    code = "upload_expired"

    def __init__(self) -> None:
        super().__init__("the upload took too long and was removed; upload the file again")


class CollectBlobs(Task, frozen=True):
    """Delete blobs that no row refers to, and what interrupted uploads left behind."""

    kind: ClassVar[str] = "kernel.collect_blobs"
    timeout_s: ClassVar[int] = 600


class Uploads:
    def __init__(self, db: Database, clock: Clock, store: BlobStore) -> None:
        self._db = db
        self._clock = clock
        self._store = store

    async def upload(self, principal: Principal, chunks: AsyncIterable[bytes], *, limit_bytes: int) -> BlobRef:
        """Store a stream. The caller says `keep` within 24 hours, or it is deleted.

        Raises:
            BlobTooLarge, StorageFull, BlobStoreAway: see `BlobStore.put`.
        """
        key = new_blob_key()
        async with self._db.transaction(principal) as tx:
            await _note(tx, key, principal.org_id, self._clock.now() + _UNCLAIMED_FOR)
        return await self._store.put(chunks, limit_bytes=limit_bytes, key=key)

    async def keep(self, tx: Tx, blob: BlobRef) -> None:
        """Claim an upload in the transaction that stores a reference to it.

        Raises:
            UploadExpired: it was collected already.
        """
        if not await execute(tx, "delete from blob_garbage where key = :key", key=blob.key):
            raise UploadExpired

    async def discard(self, tx: Tx, key: str, org_id: OrgId) -> None:
        """Have a blob deleted once the transaction that removes its last reference commits."""
        await _note(tx, key, org_id, self._clock.now())

    async def run_collect(self, _task: CollectBlobs, _ctx: TaskContext) -> None:
        """Handler of `CollectBlobs`; queue it every hour."""
        removed = await self.collect()
        swept = await self._store.sweep(_UNCLAIMED_FOR.total_seconds())
        if removed or swept:
            log.info("blobs.collected", removed=removed, swept=swept)

    async def collect(self) -> int:
        """Delete what is due, and return how many blobs it was."""
        removed = 0
        while count := await collect_batch_all_tenants(self._db, self._clock, self._store):
            removed += count
        return removed


async def collect_batch_all_tenants(db: Database, clock: Clock, store: BlobStore) -> int:
    """Delete some blobs that are due, of any organization. Their notes stay locked meanwhile, so `keep` waits and then finds none."""
    async with db.system() as tx:
        rows = await fetch_rows(
            tx,
            """
            select key
              from blob_garbage
             where delete_after <= :now
             order by delete_after
             limit :limit
               for update skip locked
            """,
            now=clock.now(),
            limit=_BATCH,
        )
        deleted: list[str] = []
        for row in rows:
            try:
                await store.delete(row["key"])
            except Unavailable as error:
                log.warning("blobs.not_deleted", key=row["key"], error=str(error))
                break
            deleted.append(row["key"])
        await execute(tx, "delete from blob_garbage where key = any(:keys::text[])", keys=deleted)
    return len(deleted)


async def _note(tx: Tx, key: str, org_id: OrgId, delete_after: object) -> None:
    await execute(
        tx,
        """
        insert into blob_garbage (key, org_id, delete_after)
        values (:key, :org_id, :delete_after)
        on conflict (key) do update set delete_after = excluded.delete_after
        """,
        key=key,
        org_id=org_id,
        delete_after=delete_after,
    )
