"""Removing old events: never without proof of what stood there."""

from datetime import datetime
from typing import Final
from uuid import UUID

from probity.audit import store
from probity.audit.models import Checkpoint, CheckpointKind
from probity.audit.sealer import sign_checkpoint
from probity.kernel.clock import Clock
from probity.kernel.crypto import KeyRing
from probity.kernel.db import Database

_BATCH: Final = 5000


async def prune_chain_all_tenants(db: Database, clock: Clock, ring: KeyRing, chain_id: UUID, before: datetime) -> Checkpoint | None:
    """Remove the beginning of a chain whose events all happened before `before`, leaving a signed boundary; return it.

    Safe to repeat: what a crash left behind goes with the next call. The caller has verified the chain, so that removal does not wash
    tampering away.
    """
    async with db.system() as tx:
        await store.lock_sealer_all_tenants(tx)
        seq = await store.last_seq_before_all_tenants(tx, chain_id, before)
        link = await store.find_link(tx, chain_id, seq) if seq else None
        if link is not None:
            await store.insert_checkpoint_all_tenants(tx, sign_checkpoint(ring, clock, CheckpointKind.BOUNDARY, link))
        boundary = await store.find_boundary(tx, chain_id)
    if boundary is not None:
        await _remove_all_tenants(db, chain_id, boundary.seq)
    return boundary


async def _remove_all_tenants(db: Database, chain_id: UUID, up_to: int) -> None:
    """Delete events, then their links, a batch per transaction."""
    removed = _BATCH
    while removed:
        async with db.system() as tx:
            removed = await store.delete_oldest_all_tenants(tx, chain_id, up_to=up_to, limit=_BATCH)
