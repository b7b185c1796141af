"""SQL of leases: claims, renewals and completions, each one statement that also checks the agent's live credential.

Concurrent claims and completions of one server share a statement, across agents and organizations; every row it writes is found by
(org_id, id), where org_id is that of the credential. Source: design §6, §10.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, LiteralString

import asyncpg
import msgspec

from probity.dispatch.events import JOB_FINISHED_TASK
from probity.dispatch.models import OWN_KINDS, ClaimedJob, Completion, JobId, Renewal
from probity.fleet.models import AgentCredential
from probity.kernel.db import Database, Tx, execute, fetch_rows
from probity.kernel.principal import AgentId, OrgId
from probity.kernel.queue import TASKS, JobState

_MAX_ERROR_TEXT: Final = 10_000


class ClaimResult(msgspec.Struct, frozen=True):
    """`org_id` is None when the credential is not live; `job` is None when nothing waits for the agent."""

    org_id: OrgId | None
    job: ClaimedJob | None


class EndResult(msgspec.Struct, frozen=True):
    """What a completion met. `ended`: this one ended the job. `state` and `is_holder` are from before; state None: no such job."""

    is_live: bool
    ended: bool = False
    state: JobState | None = None
    is_holder: bool = False


class RenewResult(msgspec.Struct, frozen=True):
    is_live: bool
    exists: bool = False
    renewal: Renewal | None = None


# One claimer: no ranking needed, so 1.5 times as fast as the statement for many.
_CLAIM_ONE: Final[LiteralString] = """
with me as materialized (
    select id, org_id, tags, capabilities
      from agents
     where id = :agent_id
       and secret_hash = :secret_hash
       and status <> 'revoked'
), pinned as (
    select jobs.id, jobs.org_id
      from me
     cross join lateral (
        select j.id, j.org_id
          from jobs j
         where j.lane = 'agent'
           and j.state = 'queued'
           and j.org_id = me.org_id
           and j.agent_id = me.id
           and j.agent_id is not null
           and j.run_at <= :now
           and j.tags <@ me.tags
           and (case when j.capability is null then not me.capabilities && :own_kinds::text[] else j.capability = any(me.capabilities) end)
         order by j.priority desc, j.run_at, j.id
         limit 1
           for update skip locked
     ) jobs
), open as (
    select found.id, me.org_id
      from me
     cross join lateral (
        select jobs.id, jobs.priority, jobs.run_at
          from (select '' as need where not me.capabilities && :own_kinds::text[]
                 union
                select unnest(me.capabilities)) as needs
         cross join lateral (
            select j.id, j.priority, j.run_at
              from jobs j
             where j.lane = 'agent'
               and j.state = 'queued'
               and j.agent_id is null
               and j.org_id = me.org_id
               and coalesce(j.capability, '') = needs.need
               and j.run_at <= :now
               and j.tags <@ me.tags
             order by j.priority desc, j.run_at, j.id
             limit 1
               for update skip locked
         ) jobs
         order by jobs.priority desc, jobs.run_at, jobs.id
         limit 1
     ) found
     where not exists (select from pinned)
), claimed as (
    update jobs
       set state = 'claimed', claimed_by = me.id, claimed_at = :now, claim_expires_at = :until, attempt = attempt + 1, updated_at = :now
      from me, (select id, org_id from pinned union all select id, org_id from open) as chosen
     where jobs.org_id = chosen.org_id
       and jobs.id = chosen.id
    returning jobs.id, jobs.org_id, jobs.kind, jobs.payload::text as payload, jobs.correlation_id, jobs.claimed_by
), audited as (
    insert into audit_events (org_id, actor, action, resource, correlation_id)
    select org_id, 'agent:' || claimed_by, 'job.claim', 'job:' || id, correlation_id
      from claimed
)
select 1::bigint as slot, me.org_id, claimed.id, claimed.kind, claimed.payload, claimed.correlation_id
  from me
  left join claimed on true
"""

# Many claimers. Agents of one organization with the same tags and capabilities form a class and are interchangeable for jobs that name
# no agent: each class takes as many rows as it has claimers and deals them out by rank. A row that two classes found goes to one of
# them; the other's claimer is left without and asks again. Slots travel as arrays and steps are materialized: the planner expects one
# row of each, and a join by rank would be repeated for every claimer.
_CLAIM_MANY: Final[LiteralString] = """
with claimers as materialized (
    select c.slot, a.id, a.org_id, a.tags, a.capabilities
      from unnest(:agent_ids::uuid[], :hashes::bytea[]) with ordinality as c (agent_id, secret_hash, slot)
      join agents a on a.id = c.agent_id and a.secret_hash = c.secret_hash and a.status <> 'revoked'
), pinned as materialized (
    select one.slots[ready.nth] as slot, one.id as agent_id, one.org_id, ready.id
      from (select id, org_id, tags, capabilities, array_agg(slot order by slot) as slots
              from claimers
             group by id, org_id, tags, capabilities) as one
     cross join lateral (
        select found.id, row_number() over (order by found.priority desc, found.run_at, found.id) as nth
          from (
            select j.id, j.priority, j.run_at
              from jobs j
             where j.lane = 'agent'
               and j.state = 'queued'
               and j.org_id = one.org_id
               and j.agent_id = one.id
               and j.agent_id is not null
               and j.run_at <= :now
               and j.tags <@ one.tags
               and (case when j.capability is null then not one.capabilities && :own_kinds::text[]
                         else j.capability = any(one.capabilities) end)
             order by j.priority desc, j.run_at, j.id
             limit cardinality(one.slots)
               for update skip locked
          ) found
     ) ready
), classes as materialized (
    select row_number() over () as class, org_id, tags, capabilities,
           array_agg(slot order by slot) as slots, array_agg(id order by slot) as agents
      from claimers
     where slot not in (select slot from pinned)
     group by org_id, tags, capabilities
), found as materialized (
    select classes.class, ready.id, ready.priority, ready.run_at
      from classes
     cross join lateral (
        select '' as need where not classes.capabilities && :own_kinds::text[]
         union
        select unnest(classes.capabilities)
     ) needs
     cross join lateral (
        select j.id, j.priority, j.run_at
          from jobs j
         where j.lane = 'agent'
           and j.state = 'queued'
           and j.agent_id is null
           and j.org_id = classes.org_id
           and coalesce(j.capability, '') = needs.need
           and j.run_at <= :now
           and j.tags <@ classes.tags
         order by j.priority desc, j.run_at, j.id
         limit cardinality(classes.slots)
           for update skip locked
     ) ready
), ranked as materialized (
    select class, id, row_number() over (partition by class order by priority desc, run_at, id) as nth
      from (select distinct on (id) class, id, priority, run_at from found order by id, class) as once
), chosen as materialized (
    select slot, agent_id, org_id, id
      from pinned
     union all
    select classes.slots[ranked.nth], classes.agents[ranked.nth], classes.org_id, ranked.id
      from ranked
      join classes on classes.class = ranked.class
     where ranked.nth <= cardinality(classes.slots)
), claimed as (
    update jobs
       set state = 'claimed', claimed_by = chosen.agent_id, claimed_at = :now, claim_expires_at = :until, attempt = attempt + 1,
           updated_at = :now
      from chosen
     where jobs.org_id = chosen.org_id
       and jobs.id = chosen.id
    returning chosen.slot, jobs.id, jobs.org_id, jobs.kind, jobs.payload::text as payload, jobs.correlation_id, jobs.claimed_by
), audited as (
    insert into audit_events (org_id, actor, action, resource, correlation_id)
    select org_id, 'agent:' || claimed_by, 'job.claim', 'job:' || id, correlation_id
      from claimed
)
select slot, org_id, null::uuid as id, null::text as kind, null::text as payload, null::uuid as correlation_id
  from claimers
 where slot not in (select slot from chosen)
 union all
select slot, org_id, id, kind, payload, correlation_id
  from claimed
"""

# The first word of a job's holder ends it. A holder whose lease ran out still counts while nobody else has the job (`queued`, unclaimed).
_END: Final[LiteralString] = """
with met as materialized (
    select e.slot, a.id as agent_id, a.org_id, j.id as job_id, j.state as before, j.correlation_id,
           coalesce(j.claimed_by = a.id, false) as is_holder,
           row_number() over (partition by j.id, j.claimed_by = a.id order by e.slot) = 1 as is_first,
           e.state, e.error, e.reason_code, e.result
      from unnest(:agent_ids::uuid[], :hashes::bytea[], :job_ids::uuid[], :states::text[], :errors::text[], :reasons::text[],
                  :results::jsonb[]) with ordinality as e (agent_id, secret_hash, job_id, state, error, reason_code, result, slot)
      join agents a on a.id = e.agent_id and a.secret_hash = e.secret_hash and a.status <> 'revoked'
      left join jobs j on j.org_id = a.org_id and j.id = e.job_id and j.lane = 'agent'
), ended as (
    update jobs
       set state = case when jobs.cancel_requested_at is not null and met.state = 'failed' then 'cancelled' else met.state end,
           reason_code = case when jobs.cancel_requested_at is not null and met.state = 'failed' then 'cancelled'
                              else met.reason_code end,
           error = met.error, result = met.result, finished_at = :now, updated_at = :now
      from met
     where met.is_holder
       and met.is_first
       and met.before in ('claimed', 'queued')
       and jobs.org_id = met.org_id
       and jobs.id = met.job_id
       and jobs.state in ('claimed', 'queued')
       and jobs.claimed_by = met.agent_id
    returning met.slot, jobs.id, jobs.org_id, jobs.state, jobs.reason_code, jobs.run_id, jobs.request_id, jobs.correlation_id, jobs.claimed_by
), audited as (
    insert into audit_events (org_id, actor, action, resource, status, correlation_id, metadata)
    select org_id, 'agent:' || claimed_by, 'job.complete', 'job:' || id, case when state = 'succeeded' then 'success' else 'failure' end,
           correlation_id, jsonb_build_object('job_status', state)
      from ended
     union all
    select org_id, 'agent:' || agent_id, 'job.complete.idempotent', 'job:' || job_id, 'success', correlation_id, '{}'
      from met
     where before in ('succeeded', 'failed', 'cancelled')
), published as (
    insert into jobs (id, org_id, lane, kind, correlation_id, max_attempts, payload)
    select probity_new_id(), org_id, 'server', :event, correlation_id, 10,
           jsonb_build_object('job_id', id, 'org_id', org_id, 'run_id', run_id, 'request_id', request_id, 'state', state,
                              'reason_code', reason_code)
      from ended
     where coalesce(run_id, request_id) is not null
)
select slot, false as ended, before, is_holder, false as published
  from met
 where slot not in (select slot from ended)
 union all
select slot, true, 'claimed', true, coalesce(run_id, request_id) is not null
  from ended
"""

_RENEW: Final[LiteralString] = """
with me as materialized (
    select id, org_id
      from agents
     where id = :agent_id
       and secret_hash = :secret_hash
       and status <> 'revoked'
), renewed as (
    update jobs
       set state = 'claimed', claim_expires_at = :until, updated_at = :now
      from me
     where jobs.org_id = me.org_id
       and jobs.id = :job_id
       and jobs.lane = 'agent'
       and jobs.state in ('claimed', 'queued')
       and jobs.claimed_by = me.id
    returning jobs.cancel_requested_at is not null
              or jobs.claimed_at + make_interval(secs => jobs.timeout_s) + :grace::interval < :now as cancel
)
select j.id is not null as exists, renewed.cancel
  from me
  left join jobs j on j.org_id = me.org_id and j.id = :job_id and j.lane = 'agent'
  left join renewed on true
"""


async def claim_all_tenants(db: Database, claimers: Sequence[AgentCredential], *, now: datetime, lease_s: float) -> list[ClaimResult]:
    """Give each claimer the best job that waits for it, audited, in one statement; results are in the order of the claimers."""
    until = now + timedelta(seconds=lease_s)
    own_kinds = sorted(OWN_KINDS)
    async with db.system_connection() as tx:
        if len(claimers) == 1:
            (one,) = claimers
            rows = await fetch_rows(
                tx, _CLAIM_ONE, agent_id=one.agent_id, secret_hash=one.secret_hash, own_kinds=own_kinds, now=now, until=until
            )
        else:
            rows = await fetch_rows(
                tx,
                _CLAIM_MANY,
                agent_ids=[claimer.agent_id for claimer in claimers],
                hashes=[claimer.secret_hash for claimer in claimers],
                own_kinds=own_kinds,
                now=now,
                until=until,
            )
    results = [ClaimResult(None, None)] * len(claimers)
    for row in rows:
        results[row["slot"] - 1] = ClaimResult(row["org_id"], _claimed(row, until))
    return results


async def end_jobs_all_tenants(
    db: Database, ends: Sequence[tuple[AgentCredential, JobId, Completion]], *, now: datetime
) -> list[EndResult]:
    """Record how jobs ended, audited and published, in one statement; results are in the order of `ends`."""
    async with db.system_connection() as tx:
        rows = await fetch_rows(
            tx,
            _END,
            agent_ids=[credential.agent_id for credential, _, _ in ends],
            hashes=[credential.secret_hash for credential, _, _ in ends],
            job_ids=[job_id for _, job_id, _ in ends],
            states=[completion.status.value for _, _, completion in ends],
            errors=[_storable(completion.error) for _, _, completion in ends],
            reasons=[_storable(completion.reason_code) for _, _, completion in ends],
            results=[completion.result for _, _, completion in ends],
            event=JOB_FINISHED_TASK,
            now=now,
        )
        if any(row["published"] for row in rows):
            tx.touch(TASKS)
    results = [EndResult(is_live=False)] * len(ends)
    for row in rows:
        state = None if row["before"] is None else JobState(row["before"])
        results[row["slot"] - 1] = EndResult(True, row["ended"], state, row["is_holder"])
    return results


async def renew_all_tenants(
    db: Database, credential: AgentCredential, job_id: JobId, *, now: datetime, lease_s: float, grace_s: float
) -> RenewResult:
    """Extend a lease whose holder asks; it is told to stop when the job was cancelled or has outlived its time limit."""
    until = now + timedelta(seconds=lease_s)
    async with db.system_connection() as tx:
        rows = await fetch_rows(
            tx,
            _RENEW,
            agent_id=credential.agent_id,
            secret_hash=credential.secret_hash,
            job_id=job_id,
            until=until,
            now=now,
            grace=timedelta(seconds=grace_s),
        )
    if not rows:
        return RenewResult(is_live=False)
    (row,) = rows
    return RenewResult(True, row["exists"], None if row["cancel"] is None else Renewal(until, row["cancel"]))


async def give_back_all_tenants(tx: Tx, org_id: OrgId, job_id: JobId, agent_id: AgentId, *, now: datetime) -> None:
    """Undo a claim whose reply reached nobody; the attempt does not count."""
    await execute(
        tx,
        """
        update jobs
           set state = 'queued', claimed_by = null, claimed_at = null, claim_expires_at = null, attempt = attempt - 1, updated_at = :now
         where org_id = :org_id
           and id = :job_id
           and state = 'claimed'
           and claimed_by = :agent_id
        """,
        org_id=org_id,
        job_id=job_id,
        agent_id=agent_id,
        now=now,
    )


def _claimed(row: asyncpg.Record, until: datetime) -> ClaimedJob | None:
    if row["id"] is None:
        return None
    return ClaimedJob(row["id"], row["kind"], msgspec.Raw(row["payload"].encode()), row["correlation_id"], until)


def _storable(text: str | None) -> str | None:
    return None if text is None else text[:_MAX_ERROR_TEXT].replace("\x00", "\N{REPLACEMENT CHARACTER}")
