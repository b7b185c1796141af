"""One reader per watched run and server; it hands what it reads to every viewer of this server.

A wake-up says that a run has moved; the hub then reads the run's sequence from where it was. Wake-ups may be lost, so all watched
runs are also compared with the database every few seconds. A viewer has a bounded buffer: one that does not keep up is let go and
reads the sequence itself until it has caught up, so it never makes others wait. Source: design §7.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog

from probity.kernel.db import Database
from probity.kernel.principal import system_principal
from probity.kernel.wakeups import ANY
from probity.runs.live import store
from probity.runs.live.messages import message
from probity.runs.live.store import Place, StoredEvent
from probity.runs.models import EventType, Run, RunId

log = structlog.get_logger(__name__)

READ_LIMIT: Final = 500
_BUFFER_BATCHES: Final = 64
_POLL_S: Final = 2.0
# Source: webtest.md §7.1.
HEARTBEAT_S: Final = 5.0
_SLOTS: Final = 10

encode: Final = msgspec.json.Encoder().encode


class Lagged(Exception):
    """The viewer did not keep up; it reads on from the database."""


class Stopped(Exception):
    """The server stops; the viewer should come back to another one."""


class Batch:
    """Consecutive events, turned into the bytes of a stream once for all viewers."""

    __slots__ = ("_frames", "events", "first", "last")

    def __init__(self, events: Sequence[StoredEvent]) -> None:
        self.events = events
        self.first = events[0].seq
        self.last = events[-1].seq
        self._frames: dict[bool, bytes] = {}

    @property
    def ends_run(self) -> bool:
        return any(event.type is EventType.DONE for event in self.events)

    def after(self, seq: int) -> "Batch | None":
        """Return the part behind sequence number `seq`, if there is one."""
        if seq < self.first:
            return self
        rest = self.events[seq - self.first + 1 :]
        return Batch(rest) if rest else None

    def frames(self, *, named: bool) -> bytes:
        """Return the events as server-sent events, each with its sequence number as id."""
        if named not in self._frames:
            self._frames[named] = b"".join([frame(message(event), seq=event.seq, named=named) for event in self.events])
        return self._frames[named]


class Subscription:
    """One viewer. `base` is the sequence number behind which the batches follow without a gap.

    There is one future to wait on and no task or timer of its own: with a thousand viewers those would cost more than the data.
    """

    def __init__(self, base: int, slot: int, buffer_batches: int) -> None:
        self.base = base
        self.slot = slot
        self._buffer_batches = buffer_batches
        self._batches: deque[Batch] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._lagged = False
        self._stopped = False
        self._ticked = False

    def offer(self, batch: Batch) -> None:
        if len(self._batches) >= self._buffer_batches:
            self._lagged = True
            self._batches.clear()
        if not self._lagged:
            self._batches.append(batch)
        self._wake()

    def tick(self) -> None:
        """Let the viewer send a sign of life."""
        self._ticked = True
        self._wake()

    def stop(self) -> None:
        self._stopped = True
        self._wake()

    async def next(self) -> Batch | None:
        """Wait for the next batch; None is a moment to send a sign of life.

        Raises:
            Lagged: batches were dropped.
            Stopped: the server stops.
        """
        while not self._batches:
            if self._lagged:
                raise Lagged
            if self._stopped:
                raise Stopped
            if self._ticked:
                self._ticked = False
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._ticked = False
        return self._batches.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Channel:
    """A watched run: how far this server has read it, and who watches."""

    def __init__(self, db: Database, place: Place, cursor: int) -> None:
        self.place = place
        self.cursor = cursor
        self.viewers: set[Subscription] = set()
        self._db = db
        self._awake = asyncio.Event()
        self._reader = asyncio.create_task(self._read(), name=f"runs.live.{place.run_id}")

    def wake(self) -> None:
        self._awake.set()

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        while True:
            await self._awake.wait()
            self._awake.clear()
            try:
                while await self._read_page() == READ_LIMIT:
                    pass
            except Exception as error:  # noqa: BLE001
                # The supervisor of this reader: whatever it was, the next comparison with the database wakes it again.
                log.warning("runs.live.not_read", run_id=str(self.place.run_id), error=repr(error))

    async def _read_page(self) -> int:
        async with self._db.transaction(system_principal(self.place.org_id)) as tx:
            events = await store.read_events(tx, self.place, after=self.cursor, limit=READ_LIMIT)
        if events:
            batch = Batch(events)
            self.cursor = batch.last
            for viewer in tuple(self.viewers):
                viewer.offer(batch)
        return len(events)


class RunHub:
    """Args:
    stopping: set when the server stops; all viewers are then told.
    heartbeat_s: how often a viewer gets a moment to send a sign of life.
    poll_s: how often watched runs are compared with the database, in case a wake-up was lost.
    buffer_batches: how many batches a viewer may be behind before it has to read for itself.
    """

    def __init__(
        self,
        db: Database,
        *,
        stopping: asyncio.Event,
        heartbeat_s: float = HEARTBEAT_S,
        poll_s: float = _POLL_S,
        buffer_batches: int = _BUFFER_BATCHES,
    ) -> None:
        self._db = db
        self._stopping = stopping
        self._heartbeat_s = heartbeat_s
        self._poll_s = poll_s
        self._buffer_batches = buffer_batches
        self._channels: dict[RunId, _Channel] = {}
        self._joined = 0
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._loops = [
            asyncio.create_task(work(), name=f"runs.live.{name}")
            for name, work in (("poll", self._poll), ("tick", self._tick), ("stop", self._stop))
        ]

    async def close(self) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        for channel in tuple(self._channels.values()):
            await channel.close()
        self._channels.clear()

    def wake(self, key: str) -> None:
        """A run has moved; `key` is `<organization>/<run>` or ANY. The callback for wake-ups of `RUN_CHANNEL`."""
        if key == ANY:
            for channel in self._channels.values():
                channel.wake()
            return
        moved = self._channels.get(RunId(UUID(key.rpartition("/")[2])))
        if moved is not None:
            moved.wake()

    @contextlib.asynccontextmanager
    async def watch(self, run: Run) -> AsyncIterator[Subscription]:
        """Join the viewers of `run`; its batches follow behind the subscription's `base`."""
        channel = self._channels.get(run.id)
        if channel is None:
            channel = self._channels[run.id] = _Channel(self._db, Place.of(run), run.last_seq)
        self._joined += 1
        viewer = Subscription(channel.cursor, self._joined % _SLOTS, self._buffer_batches)
        if self._stopping.is_set():
            viewer.stop()
        channel.viewers.add(viewer)
        channel.wake()
        try:
            yield viewer
        finally:
            channel.viewers.discard(viewer)
            if not channel.viewers and self._channels.get(run.id) is channel:
                del self._channels[run.id]
                await channel.close()

    async def _tick(self) -> None:
        """Give viewers their turns slot by slot, so that a thousand of them do not all send in the same moment."""
        slot = 0
        while True:
            await asyncio.sleep(self._heartbeat_s / _SLOTS)
            slot = (slot + 1) % _SLOTS
            for viewer in self._viewers():
                if viewer.slot == slot:
                    viewer.tick()

    async def _stop(self) -> None:
        await self._stopping.wait()
        for viewer in self._viewers():
            viewer.stop()

    def _viewers(self) -> list[Subscription]:
        return [viewer for channel in self._channels.values() for viewer in channel.viewers]

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self._compare(list(self._channels.values()))
            except Exception as error:  # noqa: BLE001
                # The supervisor of the comparison: the next one may work again.
                log.warning("runs.live.not_compared", error=repr(error))

    async def _compare(self, channels: list[_Channel]) -> None:
        """Wake the readers of runs that have come further than their reader knows."""
        if not channels:
            return
        places = [channel.place for channel in channels]
        async with self._db.transaction(system_principal(*{place.org_id for place in places})) as tx:
            seqs = await store.last_seqs(tx, places)
        for channel in channels:
            if seqs.get(channel.place.run_id, 0) > channel.cursor:
                channel.wake()


def frame(content: dict[str, Any], *, seq: int, named: bool) -> bytes:
    """Return one server-sent event. Contract: unnamed, or real clients never see it; `?named=1` adds the type as its name."""
    data = encode(content)
    name = b""
    if named:
        name = b"event: " + content["type"].encode() + b"\n"
    return b"id: %d\n%sdata: %s\n\n" % (seq, name, data)
