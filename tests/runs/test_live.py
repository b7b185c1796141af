"""The live stream inside one process: hub, viewers, and the sequence they read."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probity.dispatch.service import DispatchService
from probity.fleet.service import FleetService
from probity.kernel.clock import SystemClock
from probity.kernel.db import Database, execute
from probity.kernel.ids import new_id
from probity.kernel.limits import LocalLimiter
from probity.kernel.principal import OrgId, Principal, PrincipalKind, system_principal
from probity.kernel.wakeups import Wakeups
from probity.projects.service import ProjectService
from probity.runs.ingest.service import IngestService
from probity.runs.live.hub import RunHub
from probity.runs.live.service import LiveService
from probity.runs.models import RUN_CHANNEL, Run
from probity.runs.service import RunService
from tests import cluster
from tests.runs.builders import a_finish, a_log, a_result, a_run

LivesOn = Callable[[], Awaitable[bool]]


async def yes() -> bool:
    return True


@contextlib.asynccontextmanager
async def a_hub(db: Database, wakeups: Wakeups, **options: Any) -> AsyncIterator[RunHub]:
    hub = RunHub(db, **({"stopping": asyncio.Event()} | options))
    wakeups.subscribe(RUN_CHANNEL, hub.wake)
    await hub.start()
    try:
        yield hub
    finally:
        await hub.close()


@pytest_asyncio.fixture
async def live(db: Database, wakeups: Wakeups) -> AsyncIterator[LiveService]:
    async with a_hub(db, wakeups) as hub:
        yield LiveService(db, hub)


def parsed(frames: bytes) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line.removeprefix(b"data: ")) for line in frames.split(b"\n") if line.startswith(b"data: ")]


async def collect(live: LiveService, run: Run, after: int | None = 0, *, at_most: int | None = None) -> list[dict[str, Any]]:
    """Read a stream to its end, or until it has given `at_most` messages, then hang up."""
    seen: list[dict[str, Any]] = []
    async with contextlib.aclosing(live.stream(run, after=after, named=False, still_allowed=yes)) as stream:
        async for frames in stream:
            seen += parsed(frames)
            if at_most is not None and len(seen) >= at_most:
                break
    return seen


async def test_frames_are_unnamed_with_an_id_and_named_on_request(
    runs: RunService, ingest: IngestService, live: LiveService, admin: Principal
) -> None:
    run = await runs.create(admin, a_run())
    await ingest.ingest(admin, run.id, [a_log("one\ntwo\r\n"), a_finish()])
    run = await runs.get(admin, run.id)

    plain, named = [
        b"".join([frames async for frames in live.stream(run, after=1, named=flag, still_allowed=yes)]) for flag in (False, True)
    ]

    first, second = plain.split(b"\n\n")[:2]
    assert first.startswith(b'id: 2\ndata: {"type":"log"') and second.startswith(b'id: 3\ndata: {"type":"done"')
    assert named.startswith(b"id: 2\nevent: log\ndata: ") and b"\r" not in plain and plain.endswith(b"\n\n")


async def test_a_newcomer_gets_a_snapshot_and_then_what_follows(
    runs: RunService, ingest: IngestService, live: LiveService, admin: Principal
) -> None:
    run = await runs.create(admin, a_run())
    await ingest.ingest(admin, run.id, [a_result("a"), a_log("x\n")])
    watching = asyncio.create_task(collect(live, await runs.get(admin, run.id), None))
    await asyncio.sleep(0.05)

    await ingest.ingest(admin, run.id, [a_result("b"), a_finish()])
    snapshot, result, done = await asyncio.wait_for(watching, 5)

    assert (snapshot["type"], snapshot["seq"], len(snapshot["run"]["results"]), len(snapshot["run"]["logs"])) == ("snapshot", 3, 1, 1)
    assert (result["type"], result["seq"], result["result"]["testName"], result["totals"]["total"]) == ("result", 4, "b", 2)
    assert (done["type"], done["seq"], done["status"], done["passed"], done["total"]) == ("done", 5, "completed", 2, 2)


async def test_viewers_that_come_together_share_a_snapshot_and_one_that_leaves_takes_nothing_along(
    runs: RunService, ingest: IngestService, live: LiveService, admin: Principal
) -> None:
    run = await runs.create(admin, a_run())
    leaving = asyncio.create_task(collect(live, run, None))
    staying = [asyncio.create_task(collect(live, run, None)) for _ in range(50)]
    await asyncio.sleep(0)
    leaving.cancel()
    await ingest.ingest(admin, run.id, [a_result("a"), a_finish()])

    for seen in await asyncio.wait_for(asyncio.gather(*staying), 10):
        assert [message["seq"] for message in seen] in ([1, 2, 3], [2, 3], [3, 3])


async def test_who_comes_after_the_end_gets_the_snapshot_and_done(
    runs: RunService, ingest: IngestService, live: LiveService, admin: Principal
) -> None:
    run = await runs.create(admin, a_run())
    await ingest.ingest(admin, run.id, [a_result("a"), a_finish(1)])
    run = await runs.get(admin, run.id)

    assert [message["type"] for message in await collect(live, run, None)] == ["snapshot", "done"]
    assert [message["seq"] for message in await collect(live, run, 1)] == [2, 3]
    assert [message["type"] for message in await collect(live, run, 99)] == ["snapshot", "done"]


async def test_a_viewer_that_does_not_keep_up_misses_nothing_and_stops_nobody(
    db: Database, wakeups: Wakeups, runs: RunService, ingest: IngestService, admin: Principal
) -> None:
    run = await runs.create(admin, a_run())
    async with a_hub(db, wakeups, buffer_batches=2) as hub:
        live = LiveService(db, hub)
        quick = asyncio.create_task(collect(live, run))
        slow = live.stream(run, after=0, named=False, still_allowed=yes)
        seen = parsed(await anext(slow))
        for number in range(12):
            await ingest.ingest(admin, run.id, [a_result(f"case{number}")])
            await asyncio.sleep(0.01)
        await ingest.ingest(admin, run.id, [a_finish()])

        assert [message["seq"] for message in await asyncio.wait_for(quick, 5)] == list(range(1, 15))
        async for frames in slow:
            seen += parsed(frames)

    assert [message["seq"] for message in seen] == list(range(1, 15))


async def test_a_lost_wakeup_costs_a_moment_only(db: Database, runs: RunService, ingest: IngestService, admin: Principal) -> None:
    run = await runs.create(admin, a_run())
    hub = RunHub(db, stopping=asyncio.Event(), poll_s=0.05)
    await hub.start()
    watching = asyncio.create_task(collect(LiveService(db, hub), run))
    await asyncio.sleep(0.05)

    await ingest.ingest(admin, run.id, [a_result(), a_finish()])

    assert len(await asyncio.wait_for(watching, 5)) == 3
    await hub.close()


async def test_streams_end_when_the_server_stops(db: Database, wakeups: Wakeups, runs: RunService, admin: Principal) -> None:
    run = await runs.create(admin, a_run())
    stopping = asyncio.Event()
    async with a_hub(db, wakeups, stopping=stopping) as hub:
        watching = asyncio.create_task(collect(LiveService(db, hub), run))
        await asyncio.sleep(0.05)

        stopping.set()

        assert [message["seq"] for message in await asyncio.wait_for(watching, 1)] == [1]


async def test_an_idle_stream_says_that_it_lives(db: Database, wakeups: Wakeups, runs: RunService, admin: Principal) -> None:
    run = await runs.create(admin, a_run())
    async with a_hub(db, wakeups, heartbeat_s=0.1) as hub:
        stream = LiveService(db, hub).stream(run, after=1, named=False, still_allowed=yes)

        assert await asyncio.wait_for(anext(stream), 2) == b": heartbeat\n\n"
        await stream.aclose()


async def test_a_stream_ends_when_its_credential_does(db: Database, wakeups: Wakeups, runs: RunService, admin: Principal) -> None:
    run = await runs.create(admin, a_run())
    allowed = [True, True, False]

    async def ask() -> bool:
        return allowed.pop(0)

    async with a_hub(db, wakeups, heartbeat_s=0.1) as hub:
        live = LiveService(db, hub, recheck_s=0)
        frames = [frames async for frames in live.stream(run, after=1, named=False, still_allowed=ask)]

    assert len(frames) == 2 and allowed == []


async def test_nobody_watching_leaves_nothing_running(runs: RunService, live: LiveService, admin: Principal) -> None:
    run = await runs.create(admin, a_run())

    await collect(live, run, at_most=1)

    assert not [task for task in asyncio.all_tasks() if task.get_name() == f"runs.live.{run.id}"]


# A client is cut off after `seen` messages and comes back; meanwhile the run goes on by `sizes[i]` events.
steps = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=6)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_a_client_cut_off_anywhere_has_every_event_once(pg: cluster.TestDatabase, steps: list[tuple[int, int]]) -> None:
    asyncio.run(_cut_off(pg, steps))


async def _cut_off(pg: cluster.TestDatabase, steps: list[tuple[int, int]]) -> None:
    db = await Database.open(dsn=pg.app, system_dsn=pg.system, pool_size=4, system_pool_size=1)
    try:
        wakeups, clock, org = Wakeups(db), SystemClock(), OrgId(new_id())
        fleet = FleetService(db, clock, LocalLimiter(clock))
        runs = RunService(db, clock, DispatchService(db, clock, fleet, wakeups), fleet, ProjectService(db, clock))
        ingest = IngestService(db, clock)
        me = Principal(
            kind=PrincipalKind.USER, actor="user:x", org_ids=(org,), active_org=org, permissions=frozenset({"runs:read", "runs:write"})
        )
        async with db.transaction(system_principal(org)) as tx:
            await execute(tx, "insert into organizations (id, slug, name) values (:id, :slug, 'x')", id=org, slug=f"o{org.hex[:20]}")
        async with a_hub(db, wakeups, buffer_batches=2) as hub:
            seqs = await _watch_in_pieces(runs, ingest, LiveService(db, hub), me, steps)
    finally:
        await db.close()
    assert seqs == list(range(1, len(seqs) + 1)) and len(seqs) == 2 + sum(size for size, _ in steps)


async def _watch_in_pieces(
    runs: RunService, ingest: IngestService, live: LiveService, me: Principal, steps: list[tuple[int, int]]
) -> list[int]:
    run = await runs.create(me, a_run())
    seqs: list[int] = []
    for size, wanted in steps:
        watching = asyncio.create_task(_some(live, await runs.get(me, run.id), seqs, wanted))
        for _ in range(size):
            await ingest.ingest(me, run.id, [a_result()])
        await asyncio.sleep(0)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    await ingest.ingest(me, run.id, [a_finish()])
    await asyncio.wait_for(_some(live, await runs.get(me, run.id), seqs, None), 10)
    return seqs


async def _some(live: LiveService, run: Run, seqs: list[int], wanted: int | None) -> None:
    got = 0
    async with contextlib.aclosing(live.stream(run, after=seqs[-1] if seqs else 0, named=False, still_allowed=yes)) as stream:
        async for frames in stream:
            for message in parsed(frames):
                seqs.append(message["seq"])
                got += 1
                if wanted is not None and got >= wanted:
                    return
