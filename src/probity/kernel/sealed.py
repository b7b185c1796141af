"""Secrets that are read back (a connection's password, the text of a mail), sealed each for its place, and their re-wrapping after the
master key was changed."""

from typing import NewType
from uuid import UUID

import msgspec

from probity.kernel.crypto import KeyRing
from probity.kernel.db import Database, Tx, execute, fetch_rows, fetch_value
from probity.kernel.errors import NotFound
from probity.kernel.ids import new_id
from probity.kernel.principal import OrgId

SealedId = NewType("SealedId", UUID)

_BATCH = 500


class SealedValueMissing(NotFound):
    code = "sealed_value_missing"


class Rotation(msgspec.Struct, frozen=True):
    """How many values were wrapped anew, and how many are still under another key (some server may have written meanwhile)."""

    rewrapped: int
    left: int


class SealedStore:
    """Puts secrets into `sealed_values` and takes them out. A value opens only under the organization, id and purpose it was put for."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    async def put(self, tx: Tx, org_id: OrgId | None, purpose: str, value: bytes) -> SealedId:
        """Store `value` and return the id to keep. Without `org_id` it is the server's own and needs the system role."""
        sealed_id = SealedId(new_id())
        await execute(
            tx,
            """
            insert into sealed_values (id, org_id, purpose, key_id, sealed)
            values (:id, :org_id, :purpose, :key_id, :sealed)
            """,
            id=sealed_id,
            org_id=org_id,
            purpose=purpose,
            key_id=self._ring.current_id,
            sealed=self._ring.seal(value, _context(org_id, sealed_id, purpose)),
        )
        return sealed_id

    async def get(self, tx: Tx, org_id: OrgId | None, sealed_id: SealedId, purpose: str) -> bytes:
        """Return the value.

        Raises:
            SealedValueMissing: there is none under this id, organization and purpose.
            SealBroken: it was changed or moved, or its master key is gone.
        """
        sealed = await fetch_value(
            tx,
            "select sealed from sealed_values where id = :id and org_id is not distinct from :org_id and purpose = :purpose",
            id=sealed_id,
            org_id=org_id,
            purpose=purpose,
        )
        if sealed is None:
            raise SealedValueMissing("there is no such stored secret", id=str(sealed_id))
        return self._ring.open(sealed, _context(org_id, sealed_id, purpose))

    async def replace(self, tx: Tx, org_id: OrgId | None, sealed_id: SealedId, purpose: str, value: bytes) -> None:
        """Store another value under the same id.

        Raises:
            SealedValueMissing: see `get`.
        """
        changed = await execute(
            tx,
            """
            update sealed_values
               set sealed = :sealed, key_id = :key_id, updated_at = now()
             where id = :id
               and org_id is not distinct from :org_id
               and purpose = :purpose
            """,
            id=sealed_id,
            org_id=org_id,
            purpose=purpose,
            key_id=self._ring.current_id,
            sealed=self._ring.seal(value, _context(org_id, sealed_id, purpose)),
        )
        if not changed:
            raise SealedValueMissing("there is no such stored secret", id=str(sealed_id))

    async def delete(self, tx: Tx, org_id: OrgId | None, sealed_id: SealedId) -> None:
        """Forget a value; one that is gone is no error."""
        await execute(tx, "delete from sealed_values where id = :id and org_id is not distinct from :org_id", id=sealed_id, org_id=org_id)


async def rotate_all_tenants(db: Database, ring: KeyRing) -> Rotation:
    """Wrap every value that another key wraps by the current one. Safe to repeat, to interrupt, and while servers run.

    Raises:
        SealBroken: the master key of a value is not in the ring; those before it are done.
    """
    rewrapped = 0
    while count := await _rotate_batch_all_tenants(db, ring):
        rewrapped += count
    async with db.system() as tx:
        left = await fetch_value(tx, "select count(*) from sealed_values where key_id <> :current", current=ring.current_id)
    return Rotation(rewrapped, left)


async def _rotate_batch_all_tenants(db: Database, ring: KeyRing) -> int:
    async with db.system() as tx:
        rows = await fetch_rows(
            tx,
            """
            select id, sealed
              from sealed_values
             where key_id <> :current
             order by id
             limit :limit
               for update skip locked
            """,
            current=ring.current_id,
            limit=_BATCH,
        )
        await execute(
            tx,
            """
            update sealed_values
               set sealed = anew.sealed, key_id = :current
              from unnest(:ids::uuid[], :sealed::bytea[]) as anew (id, sealed)
             where sealed_values.id = anew.id
            """,
            current=ring.current_id,
            ids=[row["id"] for row in rows],
            sealed=[ring.rewrap(row["sealed"]) for row in rows],
        )
    return len(rows)


def _context(org_id: OrgId | None, sealed_id: SealedId, purpose: str) -> bytes:
    return b"sealed_values\x00" + (org_id.bytes if org_id else bytes(16)) + sealed_id.bytes + purpose.encode()
