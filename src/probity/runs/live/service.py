"""Watching a run: what it is now, then everything that happens, once and in order."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from time import monotonic
from typing import Any, Final

from probity.kernel.db import Database
from probity.kernel.principal import OrgId, Principal, system_principal
from probity.runs import store as runs_store
from probity.runs.live import messages, store
from probity.runs.live.hub import READ_LIMIT, Batch, Lagged, RunHub, Stopped, Subscription, frame
from probity.runs.live.store import Place
from probity.runs.models import EventType, Run, RunId, RunRef

# What one snapshot carries at most; earlier results and lines are read page by page.
MAX_RESULTS: Final = 2000
MAX_LOG_PIECES: Final = 1000
# A viewer's credential is looked at again this often.
RECHECK_S: Final = 15.0

_HEARTBEAT: Final = b": heartbeat\n\n"

StillAllowed = Callable[[], Awaitable[bool]]


class LiveService:
    def __init__(self, db: Database, hub: RunHub, *, recheck_s: float = RECHECK_S) -> None:
        self._db = db
        self._hub = hub
        self._recheck_s = recheck_s
        self._snapshots: dict[tuple[RunId, bool], asyncio.Task[tuple[Run, bytes]]] = {}

    async def find(self, principal: Principal, ref: RunRef) -> Run:
        principal.require("runs:read")
        async with self._db.transaction(principal) as tx:
            return await runs_store.get_run(tx, principal.org_id, ref)

    async def find_in(self, org_id: OrgId, run_id: RunId) -> Run:
        """Return a run for a reader that was let into its organization already."""
        async with self._db.transaction(system_principal(org_id)) as tx:
            return await runs_store.get_run(tx, org_id, run_id)

    async def unfinished(self, org_id: OrgId) -> dict[RunId, int]:
        """Return the organization's runs that wait or run, with how far they have come."""
        async with self._db.transaction(system_principal(org_id)) as tx:
            return await store.unfinished_runs(tx, org_id)

    async def full_run(self, principal: Principal, ref: RunRef) -> dict[str, Any]:
        """Return a run with its last results and log lines."""
        run = await self.find(principal, ref)
        results, logs, cut = await self._history(run)
        return messages.full_run(run, results, logs, cut=cut)

    async def stream(self, run: Run, *, after: int | None, named: bool, still_allowed: StillAllowed) -> AsyncGenerator[bytes]:
        """Yield server-sent events until the run has ended.

        Args:
            after: the last sequence number that the viewer has; None for a viewer that has nothing and begins with a snapshot.
            named: whether events carry names; clients of the contract need unnamed ones.
            still_allowed: asked now and then; the stream ends when it says no.
        """
        if after is None or after > run.last_seq:
            run, snapshot = await self._snapshot(run, named=named)
            yield snapshot
            if run.state.is_final:
                yield frame(messages.done(run), seq=run.last_seq, named=named)
                return
            after = run.last_seq
        async with contextlib.aclosing(self.follow(run, after=after, still_allowed=still_allowed)) as items:
            async for item in items:
                yield _HEARTBEAT if item is None else item.frames(named=named)

    async def follow(self, run: Run, *, after: int, still_allowed: StillAllowed) -> AsyncGenerator[Batch | None]:
        """Yield all events behind `after`, once each and in order; None when nothing happened for a while. Ends with the run."""
        if run.state.is_final:
            async for batch in self._read_up_to(Place.of(run), after, run.last_seq):
                yield batch
            return
        while True:
            try:
                async with self._hub.watch(run) as viewer, contextlib.aclosing(self._listen(run, viewer, after, still_allowed)) as items:
                    async for item in items:
                        yield item
                        if item is not None:
                            after = item.last
                            if item.ends_run:
                                return
                return
            except Lagged:
                continue

    async def _listen(self, run: Run, viewer: Subscription, after: int, still_allowed: StillAllowed) -> AsyncGenerator[Batch | None]:
        """Read up to where the hub is, then yield what it hands out, until the server stops or the viewer may no longer watch.

        Raises:
            Lagged: the viewer was too slow for the hub.
        """
        async for batch in self._read_up_to(Place.of(run), after, viewer.base):
            after = batch.last
            yield batch
        recheck_at = monotonic() + self._recheck_s
        while True:
            try:
                item = await viewer.next()
            except Stopped:
                return
            if monotonic() >= recheck_at:
                if not await still_allowed():
                    return
                recheck_at = monotonic() + self._recheck_s
            if item is None:
                yield None
            # What the viewer read for itself a moment ago may come again.
            elif (part := item.after(after)) is not None:
                after = part.last
                yield part

    async def _read_up_to(self, place: Place, after: int, last: int) -> AsyncIterator[Batch]:
        while after < last:
            async with self._db.transaction(system_principal(place.org_id)) as tx:
                events = await store.read_events(tx, place, after=after, limit=min(READ_LIMIT, last - after))
            if not events:
                return
            after = events[-1].seq
            yield Batch(events)

    async def _snapshot(self, run: Run, *, named: bool) -> tuple[Run, bytes]:
        """Return the run as it is and its first message. Viewers that come together share one: a thousand may come back at once."""
        key = (run.id, named)
        making = self._snapshots.get(key)
        if making is None:
            making = self._snapshots[key] = asyncio.create_task(self._make_snapshot(run, named=named))
            making.add_done_callback(lambda _: self._snapshots.pop(key, None))
        # One viewer that hangs up must not take the others' snapshot with it.
        return await asyncio.shield(making)

    async def _make_snapshot(self, run: Run, *, named: bool) -> tuple[Run, bytes]:
        current = await self.find_in(run.org_id, run.id)
        results, logs, cut = await self._history(current)
        return current, frame(messages.snapshot(current, results, logs, cut=cut), seq=current.last_seq, named=named)

    async def _history(self, run: Run) -> tuple[list[store.StoredEvent], list[store.StoredEvent], bool]:
        """Return the last results and log pieces up to the sequence number that `run` shows, and whether earlier ones were left out."""
        place = Place.of(run)
        async with self._db.transaction(system_principal(run.org_id)) as tx:
            results = await store.read_last(tx, place, EventType.RESULT, up_to=run.last_seq, limit=MAX_RESULTS + 1)
            logs = await store.read_last(tx, place, EventType.LOG, up_to=run.last_seq, limit=MAX_LOG_PIECES + 1)
        cut = len(results) > MAX_RESULTS or len(logs) > MAX_LOG_PIECES
        return results[-MAX_RESULTS:], logs[-MAX_LOG_PIECES:], cut
