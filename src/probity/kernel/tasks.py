"""Background tasks of the server: what they are, and the runner that works them off.

A task is a frozen payload plus one handler. Handlers are called at least once and must be safe to repeat. What can pass later
(`Unavailable`, `Upstream`, a serialization failure, a time-out, `RetryLater`) is repeated with growing delays; anything else fails at
once and stays visible.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Final
from uuid import UUID, uuid4

import asyncpg
import msgspec
import structlog

from probity.kernel import queue
from probity.kernel.clock import Clock
from probity.kernel.db import Database, Tx
from probity.kernel.errors import Unavailable, Upstream
from probity.kernel.events import EVENT_PREFIX, Subscription
from probity.kernel.groupcommit import GroupCommit
from probity.kernel.ids import new_id
from probity.kernel.principal import OrgId
from probity.kernel.queue import ClaimedTask, JobState, NewTask, Outcome

log = structlog.get_logger(__name__)

_LEASE_S: Final = 60.0
_POLL_S: Final = 1.0
_PRUNE_AFTER_S: Final = 24 * 3600.0
_PRUNE_BATCH: Final = 5000
_MAX_DELAY_S: Final = 3600.0
_MAX_ERROR_TEXT: Final = 500
_PASSES_LATER: Final = (Unavailable, Upstream, asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError)


class Task(msgspec.Struct, frozen=True):
    """A task's payload: ids, not copies. `kind` is stored and must stay the same.

    `timeout_s` bounds one attempt; `max_attempts` counts attempts that crashed, timed out or may pass later.
    """

    kind: ClassVar[str]
    max_attempts: ClassVar[int] = 10
    timeout_s: ClassVar[int] = 60


class TaskContext(msgspec.Struct, frozen=True):
    """What a handler may want to know about the attempt it runs in."""

    task_id: UUID
    org_id: OrgId | None
    correlation_id: UUID
    attempt: int
    max_attempts: int
    db: Database
    clock: Clock


Handler = Callable[[Any, TaskContext], Awaitable[None]]


class RetryLater(Exception):
    """Raised by a handler: try again in `delay_s`; counts as an attempt."""

    def __init__(self, reason: str, *, delay_s: float) -> None:
        super().__init__(reason)
        self.delay_s = delay_s


class Periodic(msgspec.Struct, frozen=True):
    """Queue `task` every `every_s` seconds, once for all servers; skipped while the one before still waits."""

    name: str
    every_s: float
    task: Task


class PruneTasks(Task, frozen=True):
    """Delete tasks that ended well a day ago."""

    kind: ClassVar[str] = "kernel.prune_tasks"


async def enqueue(
    tx: Tx,
    task: Task,
    *,
    org_id: OrgId | None = None,
    run_at: datetime | None = None,
    dedupe_key: str | None = None,
    max_attempts: int | None = None,
    correlation_id: UUID | None = None,
) -> UUID:
    """Queue `task` in the caller's transaction, for now or for `run_at`, and return its id.

    With a `dedupe_key` nothing is added while a task of the same kind, organization and key still waits (the id is then that of no
    row); one that already runs does not count, since it may have read the state from before.
    """
    task_id = new_id()
    row = NewTask(
        id=task_id,
        org_id=org_id,
        kind=task.kind,
        payload=task,
        run_at=run_at,
        dedupe_key=dedupe_key,
        max_attempts=task.max_attempts if max_attempts is None else max_attempts,
        timeout_s=task.timeout_s,
        correlation_id=correlation_id,
    )
    await queue.add_tasks(tx, [row])
    return task_id


def backoff_s(attempt: int, jitter: float) -> float:
    """Return the delay after attempt number `attempt`: 1 s, doubling, at most an hour, ± 20 % by `jitter` in [-1, 1]."""
    return float(min(_MAX_DELAY_S, 2.0 ** min(attempt - 1, 20)) * (1 + 0.2 * jitter))


class TaskRunner:
    """Works off the server's lane of the queue in this process; any number of servers may run one.

    Args:
        handlers: every kind of task this server knows; kinds of a newer release are left for its servers.
        periodic: what to queue at intervals.
        subscriptions: who hears of which event.
        concurrency: how many handlers run at once.
        poll_s: the longest time a task waits that no wake-up announced.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        handlers: Mapping[type[Task], Handler],
        periodic: Sequence[Periodic] = (),
        *,
        subscriptions: Sequence[Subscription] = (),
        concurrency: int = 8,
        poll_s: float = _POLL_S,
        lease_s: float = _LEASE_S,
    ) -> None:
        self._db = db
        self._clock = clock
        self._periodic = {period.name: period for period in (*periodic, Periodic("kernel.prune_tasks", 3600, PruneTasks()))}
        self._work: dict[str, tuple[type[msgspec.Struct], Handler]] = {kind.kind: (kind, handler) for kind, handler in handlers.items()}
        self._work[PruneTasks.kind] = (PruneTasks, _prune_tasks)
        self._work |= {subscription.task_kind: (subscription.event, subscription.handler) for subscription in subscriptions}
        self._subscriptions: dict[str, list[Subscription]] = {}
        for subscription in subscriptions:
            self._subscriptions.setdefault(EVENT_PREFIX + subscription.event.kind, []).append(subscription)
        _check_periodic(self._periodic, self._work)
        self._concurrency = concurrency
        self._poll_s = poll_s
        self._lease_s = lease_s
        self._id = uuid4()
        self._running: dict[UUID, asyncio.Task[None]] = {}
        self._awake = asyncio.Event()
        self._stopping = False
        self._loops: list[asyncio.Task[None]] = []
        self._outcomes = GroupCommit[Outcome, bool](self._record)
        db.on_commit(self._on_commit)

    def wake(self, _key: str = "") -> None:
        """Look at the queue soon; the callback for the wake-ups of `queue.TASKS`."""
        self._awake.set()

    async def start(self) -> None:
        """Begin to work in the background of the running event loop."""
        self._stopping = False
        self._loops = [
            asyncio.create_task(self._claim_loop(), name="tasks.claim"),
            asyncio.create_task(self._renew_loop(), name="tasks.renew"),
        ]

    async def stop(self, deadline_s: float = 10.0) -> None:
        """Claim nothing more, let running handlers finish for `deadline_s`, then cancel them and give their tasks back."""
        self._stopping = True
        self._awake.set()
        if self._loops:
            claim, renew = self._loops
            await asyncio.wait([claim], timeout=deadline_s)
            claim.cancel()
            if self._running:
                await asyncio.wait(list(self._running.values()), timeout=deadline_s)
            for running in list(self._running.values()):
                running.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)
            renew.cancel()
            await asyncio.gather(*self._loops, return_exceptions=True)
            self._loops = []

    async def drain(self) -> int:
        """Work until no task is due, without the background loops, and return how many attempts were made. For tests and commands."""
        attempts = 0
        while claimed := await self._claim(self._concurrency):
            attempts += len(claimed)
            await asyncio.gather(*(self._attempt(task) for task in claimed))
        return attempts

    async def start_due_periods(self) -> list[str]:
        """Queue the periodic tasks whose time has come and return their names."""
        async with self._db.system() as tx:
            due = await queue.start_due_periods_all_tenants(tx, list(self._periodic))
            for name in due:
                await enqueue(tx, self._periodic[name].task, dedupe_key=name)
        return due

    def _on_commit(self, channel: str, _key: str) -> None:
        if channel == queue.TASKS:
            self._awake.set()

    async def _claim_loop(self) -> None:
        loop = asyncio.get_running_loop()
        registered = False
        look_at_periods = 0.0
        while not self._stopping:
            try:
                if not registered:
                    await queue.register_periods_all_tenants(self._db, {name: period.every_s for name, period in self._periodic.items()})
                    registered = True
                self._awake.clear()
                if loop.time() >= look_at_periods:
                    # Not at every wake-up: a busy queue wakes this loop hundreds of times a second.
                    await self.start_due_periods()
                    look_at_periods = loop.time() + self._poll_s
                await self._fill()
            except Exception as error:  # noqa: BLE001
                # The supervisor of the runner: an absent database must not end it, and a bug must not end the other tasks.
                level = log.warning if isinstance(error, Unavailable) else log.error
                level("tasks.claim_failed", error=repr(error))
                await asyncio.sleep(self._poll_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._awake.wait(), self._poll_s)

    async def _fill(self) -> None:
        """Start handlers until no task is due or no slot is free."""
        while not self._stopping and (free := self._concurrency - len(self._running)) > 0:
            claimed = await self._claim(free)
            for task in claimed:
                running = asyncio.create_task(self._attempt(task), name=f"task.{task.kind}")
                self._running[task.id] = running
                running.add_done_callback(partial(self._ended, task.id))
            if len(claimed) < free:
                return

    def _ended(self, task_id: UUID, _running: asyncio.Task[None]) -> None:
        self._running.pop(task_id, None)
        self._awake.set()

    async def _claim(self, limit: int) -> list[ClaimedTask]:
        kinds = [*self._work, *self._subscriptions]
        return await queue.claim_tasks_all_tenants(self._db, runner=self._id, kinds=kinds, limit=limit, lease_s=self._lease_s)

    async def _renew_loop(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                async with self._db.system_connection() as tx:
                    await queue.fail_exhausted_tasks_all_tenants(tx)
                mine = list(self._running)
                held = await queue.renew_tasks_all_tenants(self._db, runner=self._id, ids=mine, lease_s=self._lease_s)
            except Exception as error:  # noqa: BLE001  (a supervisor loop)
                log.warning("tasks.renew_failed", error=repr(error))
                continue
            for task_id in mine:
                # Somebody else has it by now: two must not work on it at once.
                if task_id not in held and task_id in self._running:
                    log.warning("tasks.lease_lost", task_id=str(task_id))
                    self._running[task_id].cancel()

    async def _attempt(self, task: ClaimedTask) -> None:
        try:
            outcome = await self._outcome(task)
        except asyncio.CancelledError:
            await self._give_back(task)
            raise
        try:
            await self._outcomes.submit(outcome)
        except Unavailable as error:
            # The work may be done, but nobody could be told: the lease runs out and the task is repeated, as every handler allows.
            log.warning("tasks.outcome_not_recorded", kind=task.kind, task_id=str(task.id), error=repr(error))

    async def _outcome(self, task: ClaimedTask) -> Outcome:
        try:
            async with asyncio.timeout(task.timeout_s):
                await self._handle(task)
        except (TimeoutError, RetryLater, *_PASSES_LATER) as error:
            return self._retry_or_fail(task, error)
        except Exception as error:
            log.exception("tasks.failed", kind=task.kind, task_id=str(task.id), attempt=task.attempt)
            return Outcome(id=task.id, state=JobState.FAILED, reason_code="error", error=_text(error))
        return Outcome(id=task.id, state=JobState.SUCCEEDED)

    async def _handle(self, task: ClaimedTask) -> None:
        if task.kind in self._subscriptions:
            await self._fan_out(task)
            return
        payload, handler = self._work[task.kind]
        ctx = TaskContext(task.id, task.org_id, task.correlation_id, task.attempt, task.max_attempts, self._db, self._clock)
        await handler(msgspec.convert(task.payload, payload), ctx)

    async def _fan_out(self, task: ClaimedTask) -> None:
        # The dedupe key makes a repeat harmless while the tasks wait; after that, subscribers are safe to repeat anyway.
        rows = [
            NewTask(
                id=new_id(),
                org_id=task.org_id,
                kind=subscription.task_kind,
                payload=task.payload,
                dedupe_key=str(task.id),
                max_attempts=subscription.max_attempts,
                timeout_s=subscription.timeout_s,
                correlation_id=task.correlation_id,
            )
            for subscription in self._subscriptions[task.kind]
        ]
        async with self._db.system() as tx:
            await queue.add_tasks(tx, rows)

    def _retry_or_fail(self, task: ClaimedTask, error: Exception) -> Outcome:
        reason = "timeout" if isinstance(error, TimeoutError) else "retry"
        if task.attempt >= task.max_attempts:
            log.error("tasks.gave_up", kind=task.kind, task_id=str(task.id), attempts=task.attempt, error=repr(error))
            return Outcome(id=task.id, state=JobState.FAILED, reason_code="attempts_exhausted", error=_text(error))
        # Jitter spreads load; it guards nothing.
        delay_s = error.delay_s if isinstance(error, RetryLater) else backoff_s(task.attempt, random.uniform(-1, 1))  # noqa: S311
        log.info("tasks.retry", kind=task.kind, task_id=str(task.id), attempt=task.attempt, delay_s=round(delay_s, 1), error=repr(error))
        return Outcome(id=task.id, state=JobState.QUEUED, delay_s=delay_s, reason_code=reason, error=_text(error))

    async def _give_back(self, task: ClaimedTask) -> None:
        outcome = Outcome(id=task.id, state=JobState.QUEUED, reason_code="released", keeps_attempt=False)
        with contextlib.suppress(Unavailable, TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._record([outcome])), 5)

    async def _record(self, outcomes: list[Outcome]) -> list[bool]:
        return await queue.end_attempts_all_tenants(self._db, self._id, outcomes)


async def _prune_tasks(_task: PruneTasks, ctx: TaskContext) -> None:
    deleted = _PRUNE_BATCH
    while deleted == _PRUNE_BATCH:
        async with ctx.db.system() as tx:
            deleted = await queue.prune_tasks_all_tenants(tx, older_than_s=_PRUNE_AFTER_S, limit=_PRUNE_BATCH)


def _check_periodic(periodic: Mapping[str, Periodic], work: Mapping[str, object]) -> None:
    unknown = sorted(period.task.kind for period in periodic.values() if period.task.kind not in work)
    if unknown:
        raise ValueError(f"periodic tasks without a handler: {', '.join(unknown)}")


def _text(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:_MAX_ERROR_TEXT]
