"""The sealer: puts the hashes of committed events into their chains, at most a second later, and signs the heads.

Chaining inside the transaction of an action would make every audited write of an organization wait for the one before it. So the
action's transaction queues the hash, and one sealer at a time (an advisory lock; any number of servers may try) numbers and chains
what is queued.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Final
from uuid import UUID

import structlog

from probity.audit import rules, store
from probity.audit.heads import HeadsFile
from probity.audit.models import Checkpoint, CheckpointKind, EndorsedKey, Link
from probity.kernel.clock import Clock
from probity.kernel.crypto import KeyRing
from probity.kernel.db import Database, Tx
from probity.kernel.errors import Unavailable

log = structlog.get_logger(__name__)

_BATCH: Final = 2000
_PAUSE_S: Final = 0.5
_AFTER_ERROR_S: Final = 2.0


class Sealer:
    """Seals all chains of one database. `run` is for a server; `seal` for a command or a verifier.

    Args:
        on_failure: called when `run` could not seal or the disk did not take the heads; counts for an operator's alert.
    """

    def __init__(
        self, db: Database, clock: Clock, ring: KeyRing, heads: HeadsFile, *, on_failure: Callable[[], None] = lambda: None
    ) -> None:
        self._db = db
        self._clock = clock
        self._ring = ring
        self._heads = heads
        self._on_failure = on_failure
        # Heads that the disk did not take yet; only the last of each chain matters.
        self._unwritten: dict[UUID, Checkpoint] = {}
        self._keys_saved = False

    async def run(self, stop: asyncio.Event) -> None:
        """Seal until `stop` is set, then once more."""
        while not stop.is_set():
            pause_s = _PAUSE_S
            try:
                await self._seal_waiting()
            except Unavailable as error:
                log.warning("audit.seal_failed", error=str(error))
                self._on_failure()
                pause_s = _AFTER_ERROR_S
            except Exception:
                # The supervisor of the sealer: nothing may end it while the server runs.
                log.exception("audit.seal_failed")
                self._on_failure()
                pause_s = _AFTER_ERROR_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause_s)
        with contextlib.suppress(Unavailable):
            await self._seal_waiting()

    async def seal(self) -> int:
        """Seal everything that is queued now, waiting for another sealer if one is at work, and return how many events it was."""
        sealed = 0
        while count := await self._seal_batch(wait=True):
            sealed += count
            if count < _BATCH:
                break
        return sealed

    async def _seal_waiting(self) -> None:
        async with self._db.system_connection() as tx:
            waiting = await store.has_unsealed_all_tenants(tx)
        if waiting or self._unwritten:
            count = _BATCH
            while count == _BATCH:
                count = await self._seal_batch(wait=False)

    async def _seal_batch(self, *, wait: bool) -> int:
        """Seal one batch in one transaction; 0 when nothing is queued or, without `wait`, when another sealer is at work."""
        async with self._db.system() as tx:
            if wait:
                await store.lock_sealer_all_tenants(tx)
            elif not await store.try_lock_sealer_all_tenants(tx):
                return 0
            if not self._keys_saved:
                for key in endorse_keys(self._ring):
                    await store.save_key_all_tenants(tx, key)
            queued = await store.take_unsealed_all_tenants(tx, _BATCH)
            heads = await self._chain(tx, queued) if queued else []
        self._keys_saved = True
        await self._write(heads)
        return len(queued)

    async def _chain(self, tx: Tx, queued: Sequence[store.Queued]) -> list[Checkpoint]:
        chain_ids = sorted({each.chain_id for each in queued})
        stands = {head.chain_id: head for head in await store.heads_all_tenants(tx, chain_ids)}
        links: list[Link] = []
        heads: list[Checkpoint] = []
        for chain_id, events in groupby(queued, key=lambda each: each.chain_id):
            before = stands[chain_id]
            added = rules.extend(chain_id, before.seq, before.chain_hash, [(each.event_id, each.event_hash) for each in events])
            head = sign_checkpoint(self._ring, self._clock, CheckpointKind.HEAD, added[-1])
            if rules.is_checkpoint_due(head.seq, head.signed_at, before.checkpoint_seq, before.checkpoint_at):
                await store.insert_checkpoint_all_tenants(tx, head)
            links += added
            heads.append(head)
        await store.insert_links_all_tenants(tx, links)
        return heads

    async def _write(self, heads: Sequence[Checkpoint]) -> None:
        # After the commit: a head in the file says that the database had these events.
        self._unwritten |= {head.org_id: head for head in heads}
        if not self._unwritten:
            return
        batch = list(self._unwritten.values())
        try:
            await asyncio.to_thread(self._heads.append, batch)
        except OSError as error:
            log.error("audit.heads_not_written", path=str(self._heads.path), error=str(error))
            self._on_failure()
            return
        for head in batch:
            if self._unwritten.get(head.org_id) is head:
                del self._unwritten[head.org_id]


def sign_checkpoint(ring: KeyRing, clock: Clock, kind: CheckpointKind, link: Link) -> Checkpoint:
    """Return a checkpoint of `kind` at `link`, signed with the current key."""
    signed_at = clock.now()
    signature = ring.sign(rules.checkpoint_message(kind, link.org_id, link.seq, link.chain_hash, signed_at))
    return Checkpoint(
        org_id=link.org_id,
        kind=kind,
        seq=link.seq,
        chain_hash=link.chain_hash,
        signed_at=signed_at,
        key_id=signature.key_id,
        signature=signature.value,
    )


def endorse_keys(ring: KeyRing) -> list[EndorsedKey]:
    """Return every public key of the ring, endorsed by the current one."""
    keys: list[EndorsedKey] = []
    for key_id, public_key in ring.public_keys().items():
        signature = ring.sign(rules.key_message(key_id, public_key))
        keys.append(EndorsedKey(key_id=key_id, public_key=public_key, endorsed_by=signature.key_id, endorsement=signature.value))
    return keys
