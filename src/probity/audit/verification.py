"""Checking a chain where it lives: in the database, held against the heads outside it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final
from uuid import UUID

from probity.audit import rules, store
from probity.audit.models import BreakReason, Checkpoint, CheckpointKind, Verification
from probity.kernel.db import Tx

Begin = Callable[[], AbstractAsyncContextManager[Tx]]

UNSEALED_FOR_S: Final = 5.0
_PAGE: Final = 1000
_TRIES: Final = 3


async def check_chain(begin: Begin, chain_id: UUID, known_keys: Mapping[str, bytes], heads: Sequence[Checkpoint]) -> Verification:
    """Check one chain from its boundary to its end, then look for events outside it.

    Args:
        begin: opens a transaction that sees the chain.
        known_keys: public keys of the server's own ring.
        heads: signed heads of any chain, read before this call, so that the database is not behind them.
    """
    outcome = await _check_once(begin, chain_id, known_keys, heads)
    for _ in range(_TRIES - 1):
        if outcome.broken is None or outcome.broken.reason not in (BreakReason.LINK_MISSING, BreakReason.EVENT_MISSING):
            break
        # Retention may have removed what we were reading; then its boundary is there by now.
        async with begin() as tx:
            boundary = await store.find_boundary(tx, chain_id)
        if boundary is None or boundary.seq < outcome.first_seq:
            break
        outcome = await _check_once(begin, chain_id, known_keys, heads)
    return outcome


async def _check_once(begin: Begin, chain_id: UUID, known_keys: Mapping[str, bytes], heads: Sequence[Checkpoint]) -> Verification:
    async with begin() as tx:
        keys = rules.trusted_keys(known_keys, await store.list_keys(tx))
        checkpoints = await store.list_checkpoints(tx, chain_id)
        last_seq = await store.last_seq(tx, chain_id)
    boundary = next((each for each in reversed(checkpoints) if each.kind is CheckpointKind.BOUNDARY), None)
    expected = [each for each in checkpoints if each is not boundary] + [head for head in heads if head.org_id == chain_id]
    # In a thread: it checks the signature of every checkpoint and head.
    check = await asyncio.to_thread(rules.ChainCheck, chain_id, keys, boundary=boundary, checkpoints=expected)
    while not check.is_over:
        async with begin() as tx:
            page = await store.list_links(tx, chain_id, after=check.seq, until=last_seq, limit=_PAGE)
        if not page:
            break
        for link, event in page:
            check.add(link, event)
    check.end()
    if check.broken is None:
        async with begin() as tx:
            unsealed = await store.find_unsealed(tx, chain_id, older_than_s=UNSEALED_FOR_S)
        if unsealed is not None:
            check.fail(BreakReason.EVENT_UNSEALED, event_id=unsealed)
    return outcome_of(check, key_trusted=True)


def outcome_of(check: rules.ChainCheck, *, key_trusted: bool) -> Verification:
    """Return what a finished check found."""
    return Verification(
        org_id=check.org_id,
        verified=check.broken is None,
        key_trusted=key_trusted,
        events=check.events,
        first_seq=check.first_seq,
        last_seq=check.seq,
        chain_hash=check.chain_hash.hex(),
        checkpoints=check.checkpoints,
        broken=check.broken,
    )
