"""Runs: their rows, pages of them, and the reading of results and log lines."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Final, LiteralString
from uuid import UUID

import msgspec

from probity.kernel.db import Tx, containing, execute, fetch_all, fetch_one, fetch_value
from probity.kernel.principal import OrgId
from probity.runs.errors import RunNotFound
from probity.runs.models import Outcome, Run, RunId, RunKind, RunState

_COLUMNS: Final[LiteralString] = """
    r.id, r.org_id, r.run_month, r.number, r.project_id, r.kind, r.name, r.state, r.reason_code, r.trigger, r.job_id, r.agent_id,
    r.command, r.exit_code, r.created_by, r.created_at, r.started_at, r.finished_at, r.last_seq, r.total, r.passed, r.failed,
    r.errors, r.skipped, r.flaky, r.client_run_id, r.meta
"""

# Lists go to the wire as PostgreSQL writes them; times look as the rest of the API writes them.
_TIME: Final[LiteralString] = """'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"""


class NewRow(msgspec.Struct, frozen=True, kw_only=True):
    """A run about to be inserted."""

    id: RunId
    org_id: OrgId
    run_month: date
    project_id: UUID | None
    kind: RunKind
    name: str | None
    state: RunState
    trigger: str
    command: list[str] | None
    created_by: str
    created_at: datetime
    started_at: datetime | None
    client_run_id: str | None
    meta: Mapping[str, object]


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What a page of runs is narrowed to; `before` is the last number of the page before."""

    state: RunState | None = None
    project_id: UUID | None = None
    text: str | None = None
    since: datetime | None = None
    before: int | None = None
    limit: int = 50


class ResultFilter(msgspec.Struct, frozen=True, kw_only=True):
    outcome: Outcome | None = None
    text: str | None = None
    case_key: str | None = None
    after: int = 0
    limit: int = 50


class LogLine(msgspec.Struct, frozen=True):
    seq: int
    stream: str
    text: str


async def insert_run(tx: Tx, row: NewRow, number: int) -> Run | None:
    """Insert a run; None when its `client_run_id` is taken."""
    return await fetch_one(
        tx,
        Run,
        """
        insert into runs as r (id, org_id, run_month, number, project_id, kind, name, state, trigger, command, created_by, created_at,
                          started_at, client_run_id, meta)
        values (:id, :org_id, :run_month, :number, :project_id, :kind, coalesce(:name, 'RUN-' || :number::bigint), :state, :trigger,
                :command, :created_by, :created_at, :started_at, :client_run_id, :meta)
            on conflict (org_id, client_run_id) do nothing
        returning """
        + _COLUMNS,
        number=number,
        **msgspec.structs.asdict(row),
    )


async def link_job(tx: Tx, org_id: OrgId, run_id: RunId, job_id: UUID) -> None:
    await execute(
        tx, "update runs set job_id = :job_id where org_id = :org_id and id = :run_id", org_id=org_id, run_id=run_id, job_id=job_id
    )


async def find_run(tx: Tx, org_id: OrgId, ref: RunId | int) -> Run | None:
    """Return a run by id or by its human number."""
    if isinstance(ref, int):
        return await fetch_one(
            tx, Run, "select " + _COLUMNS + " from runs r where r.org_id = :org_id and r.number = :number", org_id=org_id, number=ref
        )
    return await fetch_one(tx, Run, "select " + _COLUMNS + " from runs r where r.org_id = :org_id and r.id = :id", org_id=org_id, id=ref)


async def get_run(tx: Tx, org_id: OrgId, ref: RunId | int) -> Run:
    run = await find_run(tx, org_id, ref)
    if run is None:
        raise RunNotFound
    return run


async def find_run_by_client_id(tx: Tx, org_id: OrgId, client_run_id: str) -> Run | None:
    return await fetch_one(
        tx,
        Run,
        "select " + _COLUMNS + " from runs r where r.org_id = :org_id and r.client_run_id = :client_run_id",
        org_id=org_id,
        client_run_id=client_run_id,
    )


async def list_runs(tx: Tx, org_id: OrgId, narrowed: RunFilter) -> str:
    """Return one page, newest first, as the JSON text `[…]` with at most `limit + 1` rows."""
    where: LiteralString = "r.org_id = :org_id"
    if narrowed.state is not None:
        where += " and r.state = :state"
    if narrowed.project_id is not None:
        where += " and r.project_id = :project_id"
    if narrowed.since is not None:
        # As a number, so that the page ends there: older runs are not looked at.
        where += (
            " and r.number >= (select s.number from runs s where s.org_id = :org_id and s.created_at >= :since"
            " order by s.created_at, s.number limit 1)"
        )
    if narrowed.before is not None:
        where += " and r.number < :before"
    if narrowed.text is not None:
        where += " and (r.name ilike :pattern or 'RUN-' || r.number = upper(:text))"
    return await _page(
        tx,
        "select coalesce(json_agg(page), '[]')::text from (select 'RUN-' || r.number as id, r.id as uuid, r.number, r.name, r.kind, r.state,"
        " r.reason_code, r.trigger, r.project_id,"
        " p.name as project,"
        " r.agent_id, r.job_id, r.exit_code, r.created_by,"
        " to_char(r.created_at at time zone 'UTC', " + _TIME + ") as created_at,"
        " to_char(r.started_at at time zone 'UTC', " + _TIME + ") as started_at,"
        " to_char(r.finished_at at time zone 'UTC', " + _TIME + ") as finished_at,"
        " round(extract(epoch from r.finished_at - r.started_at) * 1000) as duration_ms, r.last_seq,"
        " json_build_object('total', r.total, 'passed', r.passed, 'failed', r.failed, 'errors', r.errors, 'skipped', r.skipped,"
        " 'flaky', r.flaky) as totals"
        " from (select * from runs r where " + where + " order by r.number desc limit :limit + 1) as r"
        " left join projects p on p.org_id = r.org_id and p.id = r.project_id order by r.number desc) as page",
        org_id=org_id,
        state=narrowed.state,
        project_id=narrowed.project_id,
        since=narrowed.since,
        before=narrowed.before,
        text=narrowed.text,
        pattern=None if narrowed.text is None else containing(narrowed.text),
        limit=narrowed.limit,
    )


async def list_results(tx: Tx, run: Run, narrowed: ResultFilter) -> str:
    """Return one page of attempts in the order of the sequence, as the JSON text `[…]` with at most `limit + 1` rows.

    Long texts are cut at 20,000 characters unless the attempts of one case are asked for.
    """
    where: LiteralString = "r.org_id = :org_id and r.run_month = :run_month and r.run_id = :run_id and r.seq > :after"
    if narrowed.outcome is not None:
        where += " and r.outcome = :outcome"
    if narrowed.case_key is not None:
        where += " and r.case_key = :case_key"
        details: LiteralString = "r.details"
    else:
        details = """
            (select jsonb_object_agg(d.key, left(d.value, 20000)) from jsonb_each_text(r.details) as d)
        """
    if narrowed.text is not None:
        where += " and (r.case_key ilike :pattern or r.name ilike :pattern or r.message ilike :pattern)"
    return await _page(
        tx,
        "select coalesce(json_agg(page), '[]')::text from (select r.id, r.seq, r.case_key as \"case\", r.name, r.suite, r.file, r.line,"
        " r.outcome, r.duration_ms, r.attempt, r.worker, r.host, r.message, r.error_hash, " + details + " as details,"
        " to_char(r.at at time zone 'UTC', " + _TIME + ") as at"
        " from results r where " + where + " order by r.seq limit :limit + 1) as page",
        org_id=run.org_id,
        run_month=run.run_month,
        run_id=run.id,
        after=narrowed.after,
        outcome=narrowed.outcome,
        case_key=narrowed.case_key,
        pattern=None if narrowed.text is None else containing(narrowed.text),
        limit=narrowed.limit,
    )


async def read_log(tx: Tx, run: Run, *, after: int, limit: int) -> list[LogLine]:
    """Return the next pieces of output after sequence number `after`."""
    return await fetch_all(
        tx,
        LogLine,
        """
        select e.seq, e.body ->> 'stream' as stream, e.body ->> 'text' as text
          from run_events e
         where e.org_id = :org_id
           and e.run_month = :run_month
           and e.run_id = :run_id
           and e.type = 'log'
           and e.seq > :after
         order by e.seq
         limit :limit
        """,
        org_id=run.org_id,
        run_month=run.run_month,
        run_id=run.id,
        after=after,
        limit=limit,
    )


async def _page(tx: Tx, sql: LiteralString, **params: object) -> str:
    text: str = await fetch_value(tx, sql, **params)
    return text
