"""The one queue: the table `jobs`. Here are its words and the statements of the server's lane; `dispatch` owns the agents' lane.

A row waits (`queued`), is leased by somebody (`claimed`, until `claim_expires_at`) and ends. Whoever finishes or renews must still be
the one in `claimed_by`; a lease that ran out is claimed again. Times of the server's lane are the database's, so servers whose clocks
differ agree on them.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from probity.kernel.db import Database, Tx, execute, fetch_all, fetch_rows
from probity.kernel.ids import new_id
from probity.kernel.principal import OrgId

# Wake-up channel of the server's lane.
TASKS: Final = "tasks"


class JobState(StrEnum):
    QUEUED = "queued"
    CLAIMED = "claimed"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self not in (JobState.QUEUED, JobState.CLAIMED)


class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task to be queued. With a `dedupe_key` it is dropped when the same one (kind, organization, key) still waits."""

    id: UUID
    org_id: OrgId | None
    kind: str
    payload: object
    run_at: datetime | None = None
    dedupe_key: str | None = None
    max_attempts: int = 5
    timeout_s: int = 60
    correlation_id: UUID | None = None


class ClaimedTask(msgspec.Struct, frozen=True):
    id: UUID
    org_id: OrgId | None
    kind: str
    payload: Mapping[str, object]
    correlation_id: UUID
    attempt: int
    max_attempts: int
    timeout_s: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended: `queued` (again, after `delay_s`), `succeeded` or `failed`."""

    id: UUID
    state: JobState
    delay_s: float = 0.0
    reason_code: str | None = None
    error: str | None = None
    keeps_attempt: bool = True


class FailedTask(msgspec.Struct, frozen=True):
    id: UUID
    org_id: OrgId | None
    kind: str
    payload: Mapping[str, object]
    attempt: int
    reason_code: str | None
    error: str | None
    created_at: datetime
    finished_at: datetime


async def add_tasks(tx: Tx, tasks: Sequence[NewTask]) -> None:
    """Queue tasks in the caller's transaction; runners hear of them after the commit."""
    await execute(
        tx,
        """
        insert into jobs (id, org_id, lane, kind, payload, run_at, dedupe_key, max_attempts, timeout_s, correlation_id)
        select id, org_id, 'server', kind, payload, coalesce(run_at, now()), dedupe_key, max_attempts, timeout_s, correlation_id
          from unnest(:ids::uuid[], :org_ids::uuid[], :kinds::text[], :payloads::jsonb[], :run_ats::timestamptz[],
                      :dedupe_keys::text[], :max_attempts::int[], :timeouts::int[], :correlation_ids::uuid[])
            as t (id, org_id, kind, payload, run_at, dedupe_key, max_attempts, timeout_s, correlation_id)
            on conflict do nothing
        """,
        ids=[task.id for task in tasks],
        org_ids=[task.org_id for task in tasks],
        kinds=[task.kind for task in tasks],
        payloads=[task.payload for task in tasks],
        run_ats=[task.run_at for task in tasks],
        dedupe_keys=[task.dedupe_key for task in tasks],
        max_attempts=[task.max_attempts for task in tasks],
        timeouts=[task.timeout_s for task in tasks],
        correlation_ids=[task.correlation_id or new_id() for task in tasks],
    )
    tx.touch(TASKS)


async def claim_tasks_all_tenants(db: Database, *, runner: UUID, kinds: Sequence[str], limit: int, lease_s: float) -> list[ClaimedTask]:
    """Lease up to `limit` due tasks of known kinds: first those whose lease ran out (their server died), then the oldest."""
    async with db.system_connection() as tx:
        return await fetch_all(
            tx,
            ClaimedTask,
            """
            with abandoned as (
                select id
                  from jobs
                 where lane = 'server'
                   and state = 'claimed'
                   and claim_expires_at <= now()
                   and claimed_by <> :runner
                   and attempt < max_attempts
                   and kind = any(:kinds::text[])
                 order by claim_expires_at
                 limit :limit
                   for update skip locked
            ), waiting as (
                select id
                  from jobs
                 where lane = 'server'
                   and state = 'queued'
                   and run_at <= now()
                   and kind = any(:kinds::text[])
                 order by run_at, id
                 limit :limit
                   for update skip locked
            ), chosen as (
                select id from abandoned
                 union all
                select id from waiting
                 limit :limit
            )
            update jobs
               set state = 'claimed', claimed_by = :runner, claimed_at = now(), claim_expires_at = now() + :lease::interval,
                   attempt = attempt + 1, updated_at = now()
              from chosen
             where jobs.id = chosen.id
            returning jobs.id, org_id, kind, payload, correlation_id, attempt, max_attempts, timeout_s
            """,
            runner=runner,
            kinds=list(kinds),
            limit=limit,
            lease=timedelta(seconds=lease_s),
        )


async def renew_tasks_all_tenants(db: Database, *, runner: UUID, ids: Sequence[UUID], lease_s: float) -> set[UUID]:
    """Extend the leases of running tasks and return the ids that `runner` still holds."""
    async with db.system_connection() as tx:
        rows = await fetch_rows(
            tx,
            """
            update jobs
               set claim_expires_at = now() + :lease::interval
             where id = any(:ids::uuid[])
               and lane = 'server'
               and state = 'claimed'
               and claimed_by = :runner
            returning id
            """,
            runner=runner,
            ids=list(ids),
            lease=timedelta(seconds=lease_s),
        )
    return {row["id"] for row in rows}


async def end_attempts_all_tenants(db: Database, runner: UUID, outcomes: Sequence[Outcome]) -> list[bool]:
    """Record how attempts ended; False where `runner` no longer held the task.

    A task that would wait again while the same one (dedupe key) already waits ends as `cancelled`, reason `superseded`.
    """
    try:
        return await _end_attempts(db, runner, outcomes)
    except asyncpg.UniqueViolationError:
        # The same task was queued between our look and our write; now the look finds it.
        return await _end_attempts(db, runner, outcomes)


async def _end_attempts(db: Database, runner: UUID, outcomes: Sequence[Outcome]) -> list[bool]:
    async with db.system_connection() as tx:
        rows = await fetch_rows(
            tx,
            """
            with ended as (
                select t.id, t.delay_s, t.error, t.keeps_attempt, s.superseded,
                       case when s.superseded then 'cancelled' else t.state end as state,
                       case when s.superseded then 'superseded' else t.reason_code end as reason_code
                  from unnest(:ids::uuid[], :states::text[], :delays::float8[], :reasons::text[], :errors::text[], :keeps::bool[])
                    as t (id, state, delay_s, reason_code, error, keeps_attempt)
                  join jobs j using (id)
                 cross join lateral (
                    select t.state = 'queued' and j.dedupe_key is not null and exists (
                        select
                          from jobs d
                         where d.state = 'queued'
                           and d.kind = j.kind
                           and d.dedupe_key = j.dedupe_key
                           and d.org_id is not distinct from j.org_id) as superseded
                 ) s
            )
            update jobs
               set state = ended.state, reason_code = ended.reason_code, error = ended.error,
                   run_at = case when ended.state = 'queued' then now() + make_interval(secs => ended.delay_s) else run_at end,
                   attempt = attempt - case when ended.keeps_attempt then 0 else 1 end,
                   claimed_by = case when ended.state = 'queued' then null else claimed_by end,
                   claim_expires_at = case when ended.state = 'queued' then null else claim_expires_at end,
                   finished_at = case when ended.state = 'queued' then null else now() end,
                   updated_at = now()
              from ended
             where jobs.id = ended.id
               and jobs.lane = 'server'
               and jobs.state = 'claimed'
               and jobs.claimed_by = :runner
            returning jobs.id
            """,
            runner=runner,
            ids=[outcome.id for outcome in outcomes],
            states=[outcome.state.value for outcome in outcomes],
            delays=[outcome.delay_s for outcome in outcomes],
            reasons=[outcome.reason_code for outcome in outcomes],
            errors=[outcome.error for outcome in outcomes],
            keeps=[outcome.keeps_attempt for outcome in outcomes],
        )
    held = {row["id"] for row in rows}
    return [outcome.id in held for outcome in outcomes]


async def fail_exhausted_tasks_all_tenants(tx: Tx) -> int:
    """Fail tasks whose lease ran out on their last attempt: each time their server died or hung."""
    return await execute(
        tx,
        """
        update jobs
           set state = 'failed', reason_code = 'attempts_exhausted', error = coalesce(error, 'the server stopped while it ran'),
               finished_at = now(), updated_at = now()
         where lane = 'server'
           and state = 'claimed'
           and claim_expires_at <= now()
           and attempt >= max_attempts
        """,
    )


async def prune_tasks_all_tenants(tx: Tx, *, older_than_s: float, limit: int) -> int:
    """Delete up to `limit` tasks that ended well longer ago than `older_than_s`. Failed ones stay until somebody looks."""
    return await execute(
        tx,
        """
        delete from jobs
         where id in (
            select id
              from jobs
             where lane = 'server'
               and state in ('succeeded', 'cancelled')
               and finished_at < now() - :age::interval
             order by finished_at
             limit :limit
               for update skip locked)
        """,
        age=timedelta(seconds=older_than_s),
        limit=limit,
    )


async def failed_tasks_all_tenants(db: Database, *, limit: int = 50) -> list[FailedTask]:
    """Return the newest failed tasks, for the operator's page."""
    async with db.system_connection() as tx:
        return await fetch_all(
            tx,
            FailedTask,
            """
            select id, org_id, kind, payload, attempt, reason_code, error, created_at, finished_at
              from jobs
             where lane = 'server'
               and state = 'failed'
             order by finished_at desc
             limit :limit
            """,
            limit=limit,
        )


async def requeue_task_all_tenants(db: Database, task_id: UUID) -> bool:
    """Queue a failed task again with all its attempts (the operator's button); False when it is not failed."""
    async with db.system_connection() as tx:
        count = await execute(
            tx,
            """
            update jobs
               set state = 'queued', run_at = now(), attempt = 0, reason_code = null, error = null, finished_at = null,
                   claimed_by = null, claim_expires_at = null, updated_at = now()
             where id = :task_id
               and lane = 'server'
               and state = 'failed'
               and not exists (
                    select
                      from jobs d
                     where d.state = 'queued'
                       and d.kind = jobs.kind
                       and d.dedupe_key = jobs.dedupe_key
                       and d.org_id is not distinct from jobs.org_id)
            """,
            task_id=task_id,
        )
        tx.touch(TASKS)
    return count == 1


async def register_periods_all_tenants(db: Database, periods: Mapping[str, float]) -> None:
    """Add unknown names, due at once; a changed period takes effect at once."""
    async with db.system_connection() as tx:
        await execute(
            tx,
            """
            insert into periodic_tasks (name, every_s)
            select name, every_s
              from unnest(:names::text[], :every::float8[]) as t (name, every_s)
             order by name
                on conflict (name) do update
               set every_s = excluded.every_s, next_at = least(periodic_tasks.next_at, now() + make_interval(secs => excluded.every_s))
             where periodic_tasks.every_s <> excluded.every_s
            """,
            names=list(periods),
            every=list(periods.values()),
        )


async def start_due_periods_all_tenants(tx: Tx, names: Sequence[str]) -> list[str]:
    """Return the names whose time has come and set their next time; of several servers one gets each name."""
    rows = await fetch_rows(
        tx,
        """
        with due as (
            select name
              from periodic_tasks
             where name = any(:names::text[])
               and next_at <= now()
             order by name
               for update skip locked
        )
        update periodic_tasks
           set next_at = now() + make_interval(secs => every_s), last_started_at = now()
          from due
         where periodic_tasks.name = due.name
        returning periodic_tasks.name
        """,
        names=list(names),
    )
    return [row["name"] for row in rows]
