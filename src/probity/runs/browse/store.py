"""SQL of what people see. A case is shown by its final attempt: the highest number, then the latest."""

from collections.abc import Sequence
from typing import Final, LiteralString

import msgspec

from probity.kernel.db import Tx, containing, fetch_all, fetch_one, fetch_value
from probity.kernel.principal import AgentId, OrgId
from probity.runs.browse.models import (
    COUNT_LIMIT,
    CaseAttempt,
    CaseSummary,
    LogPiece,
    ProjectChoice,
    RunningRun,
    RunQuery,
    RunSummary,
    Suite,
)
from probity.runs.models import Run

# `seq <= :until`: a live page shows what it was told the run has reached, and takes the rest from the stream.
_FINAL: Final[LiteralString] = """
    select distinct on (r.case_key)
           r.case_key, r.name, coalesce(r.suite, r.file, '') as suite, r.outcome, r.duration_ms, r.message,
           min(r.seq) over same as first_seq,
           count(*) over same as attempts,
           bool_or(r.outcome in ('failed', 'error')) over same as has_failed,
           sum(r.duration_ms) over same as spent_ms
      from results r
     where r.org_id = :org_id
       and r.run_month = :run_month
       and r.run_id = :run_id
       and r.seq <= :until
    window same as (partition by r.case_key)
     order by r.case_key, r.attempt desc, r.seq desc
"""


def _narrowed(query: RunQuery) -> LiteralString:
    where: LiteralString = "r.org_id = :org_id"
    if query.state is not None:
        where += " and r.state = :state"
    if query.project_id is not None:
        where += " and r.project_id = :project_id"
    if query.agent_id is not None:
        where += " and r.agent_id = :agent_id"
    if query.is_label:
        where += " and r.number = :number"
    elif query.number is not None:
        where += " and (r.name ilike :pattern or r.number = :number)"
    elif query.text is not None:
        where += " and r.name ilike :pattern"
    return where


def _params(org_id: OrgId, query: RunQuery) -> dict[str, object]:
    return {
        "org_id": org_id,
        "state": query.state,
        "project_id": query.project_id,
        "agent_id": query.agent_id,
        "number": query.number,
        "pattern": None if query.text is None else containing(query.text),
    }


async def list_runs(tx: Tx, org_id: OrgId, query: RunQuery) -> list[RunSummary]:
    """Return one run more than the page holds when another page follows."""
    where = _narrowed(query)
    if query.before is not None:
        where += " and r.number < (select b.number from runs b where b.org_id = :org_id and b.id = :before)"
    return await fetch_all(
        tx,
        RunSummary,
        "select r.id, r.number, r.name, r.state, r.reason_code,"
        " (select p.name from projects p where p.org_id = r.org_id and p.id = r.project_id) as project,"
        " (select a.name from agents a where a.org_id = r.org_id and a.id = r.agent_id) as agent,"
        " r.created_at, r.started_at, r.finished_at, r.total, r.passed, r.failed, r.errors, r.skipped, r.flaky"
        " from runs r where " + where + " order by r.number desc limit :limit + 1",
        before=query.before,
        limit=query.limit,
        **_params(org_id, query),
    )


async def count_runs(tx: Tx, org_id: OrgId, query: RunQuery) -> int:
    """Count up to `COUNT_LIMIT`, so that a title never costs a scan of everything."""
    count: int = await fetch_value(
        tx,
        "select count(*) from (select 1 from runs r where " + _narrowed(query) + " limit :at_most) as capped",
        at_most=COUNT_LIMIT,
        **_params(org_id, query),
    )
    return count


async def list_projects(tx: Tx, org_id: OrgId) -> list[ProjectChoice]:
    """Return the projects that a list may be narrowed to, by name."""
    return await fetch_all(tx, ProjectChoice, "select id, name from projects where org_id = :org_id order by name limit 200", org_id=org_id)


async def running_on(tx: Tx, org_id: OrgId, agent_ids: Sequence[AgentId]) -> list[RunningRun]:
    """Return what these agents run now."""
    return await fetch_all(
        tx,
        RunningRun,
        """
        select agent_id, number
          from runs
         where org_id = :org_id
           and state = 'running'
           and agent_id = any (:agent_ids::uuid[])
         order by number
         limit 500
        """,
        org_id=org_id,
        agent_ids=list(agent_ids),
    )


class _Names(msgspec.Struct, frozen=True):
    project: str | None
    agent: str | None


async def names_of(tx: Tx, run: Run) -> tuple[str | None, str | None]:
    """Return the names of a run's project and agent."""
    names = await fetch_one(
        tx,
        _Names,
        """
        select (select p.name from projects p where p.org_id = :org_id and p.id = :project_id) as project,
               (select a.name from agents a where a.org_id = :org_id and a.id = :agent_id) as agent
        """,
        org_id=run.org_id,
        project_id=run.project_id,
        agent_id=run.agent_id,
    )
    return (None, None) if names is None else (names.project, names.agent)


def _of_run(run: Run) -> dict[str, object]:
    return {"org_id": run.org_id, "run_month": run.run_month, "run_id": run.id}


async def list_suites(tx: Tx, run: Run, *, limit: int) -> list[Suite]:
    """Return the suites in the order in which they first appeared, one more than `limit` when more follow."""
    return await fetch_all(
        tx,
        Suite,
        "with final as (" + _FINAL + ") select suite, count(*) as total,"
        " count(*) filter (where outcome in ('passed', 'xpassed')) as passed,"
        " count(*) filter (where outcome in ('failed', 'error')) as bad,"
        " count(*) filter (where outcome in ('skipped', 'xfailed')) as skipped,"
        " sum(spent_ms) as duration_ms"
        " from final group by suite order by min(first_seq) limit :limit + 1",
        until=run.last_seq,
        limit=limit,
        **_of_run(run),
    )


async def list_cases(
    tx: Tx, run: Run, *, suite: str | None = None, only_bad: bool = False, after: int = 0, limit: int
) -> list[CaseSummary]:
    """Return cases in the order in which they first appeared, one more than `limit` when more follow."""
    where: LiteralString = "first_seq > :after"
    if suite is not None:
        where += " and suite = :suite"
    if only_bad:
        where += " and outcome in ('failed', 'error')"
    return await fetch_all(
        tx,
        CaseSummary,
        "with final as (" + _FINAL + ") select first_seq, case_key, name, suite, outcome, duration_ms, attempts, has_failed,"
        " left(message, 2000) as message from final where " + where + " order by first_seq limit :limit + 1",
        until=run.last_seq,
        suite=suite,
        after=after,
        limit=limit,
        **_of_run(run),
    )


async def list_attempts(tx: Tx, run: Run, case_key: str) -> list[CaseAttempt]:
    """Return the attempts of one case, the last one first: it is the one that counts."""
    return await fetch_all(
        tx,
        CaseAttempt,
        """
        select r.attempt, r.name, r.outcome, r.duration_ms, r.file, r.line, r.worker, r.host, r.message,
               r.details ->> 'details' as details, r.details ->> 'stdout' as stdout, r.details ->> 'stderr' as stderr
          from results r
         where r.org_id = :org_id
           and r.run_month = :run_month
           and r.run_id = :run_id
           and r.case_key = :case_key
         order by r.attempt desc, r.seq desc
         limit 50
        """,
        case_key=case_key,
        **_of_run(run),
    )


async def read_log(tx: Tx, run: Run, *, after: int, until: int, limit: int) -> list[LogPiece]:
    """Return pieces of output with sequence numbers in `(after, until]`."""
    return await fetch_all(
        tx,
        LogPiece,
        """
        select e.seq, e.body ->> 'stream' as stream, e.body ->> 'text' as text
          from run_events e
         where e.org_id = :org_id
           and e.run_month = :run_month
           and e.run_id = :run_id
           and e.type = 'log'
           and e.seq > :after
           and e.seq <= :until
         order by e.seq
         limit :limit
        """,
        after=after,
        until=until,
        limit=limit,
        **_of_run(run),
    )
