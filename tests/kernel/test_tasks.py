import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from probity.kernel import queue
from probity.kernel.db import Database, execute, fetch_rows, fetch_value
from probity.kernel.errors import Conflict, Unavailable
from probity.kernel.events import Event, Subscription, publish
from probity.kernel.ids import new_id
from probity.kernel.principal import OrgId, system_principal
from probity.kernel.tasks import Periodic, RetryLater, Task, TaskContext, TaskRunner, backoff_s, enqueue
from tests.cluster import TestDatabase
from tests.fakes import FakeClock


class Greet(Task, frozen=True):
    kind: ClassVar[str] = "test.greet"
    max_attempts: ClassVar[int] = 3

    name: str
    about: UUID | None = None


class Greeted(Event, frozen=True):
    kind: ClassVar[str] = "test.greeted"

    name: str


class Handlers:
    """Records calls; raises what it was told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.errors: list[Exception] = []
        self.delay_s = 0.0

    async def greet(self, task: Greet, ctx: TaskContext) -> None:
        self.calls.append((task.name, ctx.attempt))
        await asyncio.sleep(self.delay_s)
        if self.errors:
            raise self.errors.pop(0)

    async def heard(self, event: Greeted, ctx: TaskContext) -> None:
        self.calls.append((f"heard {event.name}", ctx.attempt))

    async def heard_badly(self, event: Greeted, ctx: TaskContext) -> None:
        raise Conflict("no")


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
def runner(db: Database, clock: FakeClock, handlers: Handlers) -> TaskRunner:
    return a_runner(db, clock, handlers)


def a_runner(db: Database, clock: FakeClock, handlers: Handlers, **options: float) -> TaskRunner:
    subscriptions = (Subscription(Greeted, "good", handlers.heard), Subscription(Greeted, "bad", handlers.heard_badly))
    return TaskRunner(
        db,
        clock,
        {Greet: handlers.greet},
        [Periodic("test.greet", 3600, Greet("hourly"))],
        subscriptions=subscriptions,
        poll_s=options.pop("poll_s", 0.05),
        **options,  # type: ignore[arg-type]
    )


@pytest_asyncio.fixture
async def other_db(pg: TestDatabase) -> AsyncIterator[Database]:
    database = await Database.open(dsn=pg.app, system_dsn=pg.system)
    yield database
    await database.close()


async def add(db: Database, name: str = "Ada", **options: object) -> UUID:
    async with db.transaction(system_principal()) as tx:
        return await enqueue(tx, Greet(name), **options)  # type: ignore[arg-type]


async def states(db: Database) -> list[tuple[str, str | None]]:
    async with db.system() as tx:
        # A server that another test left to stop may still end periodic work of its own.
        rows = await fetch_rows(tx, "select state, reason_code from jobs where kind like '%test.greet%' order by id")
    return [(row["state"], row["reason_code"]) for row in rows]


async def make_due(db: Database) -> None:
    async with db.system() as tx:
        await execute(tx, "update jobs set run_at = now() where state = 'queued'")


async def test_a_task_is_handled_once_after_its_transaction_commits(db: Database, runner: TaskRunner, handlers: Handlers) -> None:
    with pytest.raises(KeyError):
        async with db.transaction(system_principal()) as tx:
            await enqueue(tx, Greet("nobody"))
            raise KeyError
    await add(db, "Ada")

    await runner.drain()
    await runner.drain()

    assert handlers.calls == [("Ada", 1)]
    assert await states(db) == [("succeeded", None)]


async def test_a_tenant_may_queue_a_task_of_its_own_or_of_the_server_but_not_of_another(db: Database) -> None:
    ours, theirs = OrgId(new_id()), OrgId(new_id())
    async with db.transaction(system_principal(ours)) as tx:
        await enqueue(tx, Greet("a"), org_id=ours, dedupe_key="x")
        await enqueue(tx, Greet("b"), dedupe_key="x")

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.transaction(system_principal(ours)) as tx:
            await enqueue(tx, Greet("c"), org_id=theirs)

    assert len(await states(db)) == 2


async def test_what_can_pass_later_is_repeated_with_a_delay(db: Database, runner: TaskRunner, handlers: Handlers) -> None:
    handlers.errors = [Unavailable("away"), RetryLater("not yet", delay_s=0)]
    await add(db)

    await runner.drain()
    assert await states(db) == [("queued", "retry")]
    async with db.system() as tx:
        assert await fetch_value(tx, "select run_at > now() + interval '0.5 s' from jobs")
    await make_due(db)
    await runner.drain()

    assert handlers.calls == [("Ada", 1), ("Ada", 2), ("Ada", 3)]
    assert await states(db) == [("succeeded", None)]


async def test_a_task_gives_up_after_its_attempts_and_stays_visible(db: Database, runner: TaskRunner, handlers: Handlers) -> None:
    handlers.errors = [RetryLater("no", delay_s=0)] * 3
    task_id = await add(db)

    await runner.drain()
    failed = await queue.failed_tasks_all_tenants(db)

    assert [(task.id, task.reason_code, task.error) for task in failed] == [(task_id, "attempts_exhausted", "no")]
    assert await queue.requeue_task_all_tenants(db, task_id)
    await runner.drain()
    assert await states(db) == [("succeeded", None)]


async def test_a_bug_is_not_repeated(db: Database, runner: TaskRunner, handlers: Handlers) -> None:
    handlers.errors = [KeyError("x")]
    await add(db)

    await runner.drain()

    assert handlers.calls == [("Ada", 1)]
    assert await states(db) == [("failed", "error")]


async def test_a_key_drops_what_already_waits_but_not_what_already_runs(db: Database, runner: TaskRunner, handlers: Handlers) -> None:
    await add(db, dedupe_key="k")
    await add(db, dedupe_key="k")
    handlers.delay_s = 0.1
    running = asyncio.create_task(runner.drain())
    await asyncio.sleep(0.05)

    await add(db, dedupe_key="k")
    await running

    assert handlers.calls == [("Ada", 1), ("Ada", 1)]


async def test_a_repeat_gives_way_to_the_same_task_that_waits(db: Database, runner: TaskRunner, handlers: Handlers) -> None:
    handlers.errors = [Unavailable("away")]
    handlers.delay_s = 0.1
    await add(db, dedupe_key="k")
    running = asyncio.create_task(runner.drain())
    await asyncio.sleep(0.05)
    await add(db, dedupe_key="k")

    await running

    assert await states(db) == [("cancelled", "superseded"), ("succeeded", None)]


async def test_each_subscriber_gets_a_task_of_its_own(db: Database, runner: TaskRunner, handlers: Handlers) -> None:
    org_id = OrgId(new_id())
    async with db.transaction(system_principal(org_id)) as tx:
        await publish(tx, Greeted("Ada"), org_id=org_id)

    await runner.drain()

    assert handlers.calls == [("heard Ada", 1)]
    assert sorted(await states(db)) == [("failed", "error"), ("succeeded", None), ("succeeded", None)]


async def test_tasks_of_a_dead_server_are_taken_over_and_counted(db: Database, clock: FakeClock, handlers: Handlers) -> None:
    await add(db)
    for _ in range(3):
        await queue.claim_tasks_all_tenants(db, runner=new_id(), kinds=["test.greet"], limit=9, lease_s=0)

    assert await a_runner(db, clock, handlers).drain() == 0
    async with db.system() as tx:
        assert await queue.fail_exhausted_tasks_all_tenants(tx) == 1
    assert await states(db) == [("failed", "attempts_exhausted")]


async def test_kinds_of_a_newer_release_are_left_alone(db: Database, clock: FakeClock) -> None:
    await add(db)

    assert await TaskRunner(db, clock, {}).drain() == 0
    assert await states(db) == [("queued", None)]


async def test_two_servers_share_the_work_and_the_periods(db: Database, other_db: Database, clock: FakeClock, handlers: Handlers) -> None:
    runners = [a_runner(db, clock, handlers), a_runner(other_db, clock, handlers)]
    for n in range(40):
        await add(db, str(n))

    for runner in runners:
        await runner.start()
    async with asyncio.timeout(10):
        while len(handlers.calls) < 41:
            await asyncio.sleep(0.01)
    await asyncio.gather(*(runner.stop() for runner in runners))

    expected = [(str(n), 1) for n in range(40)] + [("hourly", 1)]
    assert sorted(call for call in handlers.calls) == sorted(expected)


async def test_stopping_finishes_what_is_quick_and_gives_back_what_is_not(db: Database, clock: FakeClock, handlers: Handlers) -> None:
    runner = TaskRunner(db, clock, {Greet: handlers.greet}, poll_s=0.05)
    handlers.delay_s = 30
    await add(db)
    await runner.start()
    while not handlers.calls:
        await asyncio.sleep(0.01)

    await asyncio.wait_for(runner.stop(deadline_s=0.1), 3)

    async with db.system() as tx:
        rows = await fetch_rows(tx, "select state, attempt, claimed_by from jobs where kind = 'test.greet'")
    assert [tuple(row) for row in rows] == [("queued", 0, None)]


async def test_a_long_handler_keeps_its_lease(db: Database, clock: FakeClock, handlers: Handlers) -> None:
    runner, rival = (a_runner(db, clock, handlers, lease_s=0.6) for _ in range(2))
    handlers.delay_s = 1.3
    await add(db)
    await runner.start()
    await asyncio.sleep(0.1)
    await rival.start()

    await asyncio.sleep(1.4)
    await asyncio.gather(runner.stop(), rival.stop())

    assert [call for call in handlers.calls if call[0] == "Ada"] == [("Ada", 1)]


async def test_old_successes_are_deleted_and_failures_kept(db: Database, runner: TaskRunner, handlers: Handlers) -> None:
    handlers.errors = [KeyError("x")]
    await add(db)
    await runner.drain()
    await add(db)
    await runner.drain()
    async with db.system() as tx:
        await execute(tx, "update jobs set finished_at = now() - interval '2 days'")

    async with db.system() as tx:
        assert await queue.prune_tasks_all_tenants(tx, older_than_s=86400, limit=10) == 1

    assert await states(db) == [("failed", "error")]


def test_delays_double_up_to_an_hour() -> None:
    assert [backoff_s(attempt, 0) for attempt in (1, 2, 3, 30)] == [1, 2, 4, 3600]
    assert backoff_s(1, 1) == pytest.approx(1.2)
