"""SQL of jobs: adding, reading, cancelling, sweeping. Claims and completions are in `lease_store.py`."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from probity.dispatch.events import JOB_FINISHED_TASK
from probity.dispatch.models import CONTRACT_GRACE_S, CONTRACT_KINDS, Job, JobId, NewJob, Reason
from probity.kernel.db import Database, Tx, execute, fetch_all, fetch_one, fetch_rows, fetch_value
from probity.kernel.principal import AgentId, OrgId
from probity.kernel.queue import JobState


async def insert_job(tx: Tx, org_id: OrgId, job_id: JobId, new: NewJob, *, correlation_id: UUID, created_by: str, now: datetime) -> None:
    await execute(
        tx,
        """
        insert into jobs (id, org_id, lane, kind, payload, agent_scope, agent_id, tags, capability, priority, state, run_at,
                          correlation_id, request_id, run_id, max_attempts, timeout_s, created_by, created_at, updated_at)
        values (:id, :org_id, 'agent', :kind, :payload, :agent_scope, :agent_id, :tags, :capability, :priority, 'queued', :now,
                :correlation_id, :request_id, :run_id, :max_attempts, :timeout_s, :created_by, :now, :now)
        """,
        id=job_id,
        org_id=org_id,
        kind=new.kind,
        payload=new.payload,
        agent_scope=new.agent_scope,
        agent_id=new.agent_id,
        tags=list(new.tags),
        capability=new.capability,
        priority=new.priority,
        correlation_id=correlation_id,
        request_id=new.request_id,
        run_id=new.run_id,
        max_attempts=new.max_attempts,
        timeout_s=new.timeout_s,
        created_by=created_by,
        now=now,
    )


async def is_queue_full(tx: Tx, org_id: OrgId, cap: int) -> bool:
    """Return whether `cap` jobs or more wait in the organization. Reads at most `cap` index entries."""
    return bool(
        await fetch_value(
            tx,
            """
            select count(*) >= :cap
              from (select
                      from jobs
                     where org_id = :org_id
                       and lane = 'agent'
                       and state = 'queued'
                     limit :cap) as waiting
            """,
            org_id=org_id,
            cap=cap,
        )
    )


async def is_agent_queue_full(tx: Tx, org_id: OrgId, agent_id: AgentId, cap: int) -> bool:
    """Return whether `cap` jobs or more wait for this very agent."""
    return bool(
        await fetch_value(
            tx,
            """
            select count(*) >= :cap
              from (select
                      from jobs
                     where org_id = :org_id
                       and agent_id = :agent_id
                       and lane = 'agent'
                       and state = 'queued'
                     limit :cap) as waiting
            """,
            org_id=org_id,
            agent_id=agent_id,
            cap=cap,
        )
    )


async def find_job(tx: Tx, org_id: OrgId, job_id: JobId) -> Job | None:
    return await fetch_one(
        tx,
        Job,
        """
        select id, org_id, kind, state, agent_id, tags, capability, priority, run_id, correlation_id, claimed_by, claimed_at,
               claim_expires_at, cancel_requested_at, attempt, max_attempts, timeout_s, reason_code, error, created_by, created_at,
               finished_at
          from jobs
         where org_id = :org_id
           and id = :job_id
           and lane = 'agent'
        """,
        org_id=org_id,
        job_id=job_id,
    )


async def lock_job(tx: Tx, org_id: OrgId, job_id: JobId) -> Job | None:
    return await fetch_one(
        tx,
        Job,
        """
        select id, org_id, kind, state, agent_id, tags, capability, priority, run_id, correlation_id, claimed_by, claimed_at,
               claim_expires_at, cancel_requested_at, attempt, max_attempts, timeout_s, reason_code, error, created_by, created_at,
               finished_at
          from jobs
         where org_id = :org_id
           and id = :job_id
           and lane = 'agent'
           for update
        """,
        org_id=org_id,
        job_id=job_id,
    )


async def cancel_job(tx: Tx, org_id: OrgId, job_id: JobId, now: datetime) -> None:
    """End a job that nobody holds."""
    await execute(
        tx,
        """
        update jobs
           set state = 'cancelled', reason_code = :reason, finished_at = :now, updated_at = :now
         where org_id = :org_id
           and id = :job_id
        """,
        org_id=org_id,
        job_id=job_id,
        reason=Reason.CANCELLED.value,
        now=now,
    )


async def request_cancel(tx: Tx, org_id: OrgId, job_id: JobId, now: datetime) -> None:
    """Ask the agent that holds a job to stop; it hears of it when it renews its lease."""
    await execute(
        tx,
        """
        update jobs
           set cancel_requested_at = coalesce(cancel_requested_at, :now), updated_at = :now
         where org_id = :org_id
           and id = :job_id
        """,
        org_id=org_id,
        job_id=job_id,
        now=now,
    )


class Swept(msgspec.Struct, frozen=True):
    org_id: OrgId
    id: JobId
    state: JobState


async def sweep_leases_all_tenants(tx: Tx, *, now: datetime, limit: int) -> list[Swept]:
    """Decide about up to `limit` jobs whose lease is over, and return them.

    A cancelled one ends as cancelled; a contract job, some time later, as expired; one with attempts left waits again; any other fails.
    Ends are audited and published in the same statement.
    """
    return await fetch_all(
        tx,
        Swept,
        """
        with over as (
            select id, org_id,
                   case when cancel_requested_at is not null then 'cancelled'
                        when kind = any(:contract_kinds::text[]) then 'expired'
                        when attempt < max_attempts then 'queued'
                        else 'failed' end as state,
                   case when cancel_requested_at is not null then 'cancelled'
                        when kind = any(:contract_kinds::text[]) or max_attempts = 1 then 'lease_expired'
                        when attempt < max_attempts then null
                        else 'attempts_exhausted' end as reason_code
              from jobs
             where lane = 'agent'
               and state = 'claimed'
               and claim_expires_at <= :now
               and (claim_expires_at <= :contract_before or kind <> all(:contract_kinds::text[]) or cancel_requested_at is not null)
             order by claim_expires_at
             limit :limit
               for update skip locked
        ), swept as (
            update jobs
               set state = over.state, reason_code = over.reason_code, updated_at = :now,
                   claim_expires_at = case when over.state = 'queued' then null else jobs.claim_expires_at end,
                   finished_at = case when over.state = 'queued' then null else :now end
              from over
             where jobs.org_id = over.org_id
               and jobs.id = over.id
            returning jobs.org_id, jobs.id, jobs.state, jobs.reason_code, jobs.run_id, jobs.request_id, jobs.correlation_id
        ), audited as (
            insert into audit_events (org_id, actor, action, resource, status, correlation_id, metadata)
            select org_id, 'system', 'job.expire', 'job:' || id, 'failure', correlation_id,
                   jsonb_build_object('job_status', state, 'reason_code', reason_code)
              from swept
             where state <> 'queued'
        ), published as (
            insert into jobs (id, org_id, lane, kind, correlation_id, max_attempts, payload)
            select probity_new_id(), org_id, 'server', :event, correlation_id, 10,
                   jsonb_build_object('job_id', id, 'org_id', org_id, 'run_id', run_id, 'request_id', request_id, 'state', state,
                                      'reason_code', reason_code)
              from swept
             where state <> 'queued'
               and coalesce(run_id, request_id) is not null
        )
        select org_id, id, state from swept
        """,
        now=now,
        contract_before=now - timedelta(seconds=CONTRACT_GRACE_S),
        contract_kinds=sorted(CONTRACT_KINDS),
        event=JOB_FINISHED_TASK,
        limit=limit,
    )


async def requeue_abandoned_all_tenants(db: Database, org_ids: Sequence[OrgId], *, now: datetime, limit: int) -> set[OrgId]:
    """Let jobs wait again whose lease is over and that have attempts left, and return their organizations.

    The last holder stays in `claimed_by`: until somebody else claims the job, its late word still counts.
    """
    async with db.system_connection() as tx:
        rows = await fetch_rows(
            tx,
            """
            with over as (
                select id, org_id
                  from jobs
                 where lane = 'agent'
                   and state = 'claimed'
                   and claim_expires_at <= :now
                   and org_id = any(:org_ids::uuid[])
                   and attempt < max_attempts
                   and cancel_requested_at is null
                 order by claim_expires_at
                 limit :limit
                   for update skip locked
            )
            update jobs
               set state = 'queued', claim_expires_at = null, updated_at = :now
              from over
             where jobs.org_id = over.org_id
               and jobs.id = over.id
            returning jobs.org_id
            """,
            org_ids=list(org_ids),
            now=now,
            limit=limit,
        )
    return {row["org_id"] for row in rows}
