"""Appending to runs: every statement takes several runs at once, so that concurrent writers can share a transaction."""

from collections.abc import Mapping, Sequence
from datetime import date

from probity.kernel.db import Tx, execute, fetch_all, fetch_rows, fetch_value
from probity.kernel.principal import AgentId, OrgId
from probity.runs.ingest.journal import Journal
from probity.runs.models import RUN_CHANNEL, Outcome, Run, RunId
from probity.runs.rules import CaseState, merged


class LockedRun(Run, frozen=True, kw_only=True):
    """A run whose row is locked until the transaction ends, with the agents that hold or held its job."""

    holders: list[AgentId]


class EventsKnown(Exception):
    """Some of the events were there already: `known` names them per run. Repeats are rare, so nobody asks before."""

    def __init__(self, known: dict[RunId, set[str]]) -> None:
        super().__init__("events are known")
        self.known = known


async def lock_runs(tx: Tx, wanted: Sequence[tuple[OrgId, RunId]]) -> dict[tuple[OrgId, RunId], LockedRun]:
    """Lock the runs that exist, in the order of their ids, so that two batches never wait for each other in a circle."""
    rows = await fetch_all(
        tx,
        LockedRun,
        """
        select r.id, r.org_id, r.run_month, r.number, r.project_id, r.kind, r.name, r.state, r.reason_code, r.trigger, r.job_id,
               r.agent_id, r.command, r.exit_code, r.created_by, r.created_at, r.started_at, r.finished_at, r.last_seq, r.total,
               r.passed, r.failed, r.errors, r.skipped, r.flaky, r.client_run_id, r.meta,
               array(select j.claimed_by from jobs j where j.run_id = r.id and j.claimed_by is not null) as holders
          from runs r
          join unnest(:org_ids::uuid[], :ids::uuid[]) as w (org_id, id)
            on r.org_id = w.org_id
           and r.id = w.id
         order by r.id
           for update of r
        """,
        org_ids=[org_id for org_id, _ in wanted],
        ids=[run_id for _, run_id in wanted],
    )
    return {(row.org_id, row.id): row for row in rows}


async def case_states(tx: Tx, asked: Mapping[RunId, tuple[Run, set[str]]]) -> dict[RunId, dict[str, CaseState]]:
    """Return what earlier attempts of these cases came to.

    One statement over all of them rather than a look-up per case: whichever index a planner without statistics takes, it reads a run
    once at most.
    """
    rows = await fetch_rows(
        tx,
        """
        select r.run_id, r.case_key, r.attempt, r.seq, r.outcome
          from results r
         where r.run_month = any(:months::date[])
           and r.run_id = any(:run_ids::uuid[])
           and r.case_key = any(:case_keys::text[])
        """,
        months=list({run.run_month for run, _ in asked.values()}),
        run_ids=list(asked),
        case_keys=list(set().union(*(keys for _, keys in asked.values()))),
    )
    states: dict[RunId, dict[str, CaseState]] = {}
    for row in rows:
        outcome = Outcome(row["outcome"])
        of_run = states.setdefault(RunId(row["run_id"]), {})
        of_run[row["case_key"]] = merged(of_run.get(row["case_key"]), CaseState.of(row["attempt"], row["seq"], outcome))
    return states


async def save(tx: Tx, journals: Sequence[Journal]) -> None:
    """Write closed journals; their runs are locked. Watchers hear of it after the commit.

    Raises:
        EventsKnown: some events were there already. The transaction is of no use then, because their numbers were given away.
    """
    changed = [journal for journal in journals if journal.events]
    if not changed:
        return
    await _insert_events(tx, changed)
    if any(journal.results for journal in changed):
        await _insert_results(tx, changed)
    await _update_runs(tx, [journal.run for journal in changed])
    for journal in changed:
        tx.touch(RUN_CHANNEL, f"{journal.run.org_id}/{journal.run.id}")


async def add_month(tx: Tx, month: date) -> None:
    """Make the partitions of `month` unless they are there."""
    await fetch_value(tx, "select probity_add_run_month(:month)", month=month)


async def _insert_events(tx: Tx, journals: Sequence[Journal]) -> None:
    rows = [(journal.run, event) for journal in journals for event in journal.events]
    written = await fetch_rows(
        tx,
        """
        insert into run_events (id, org_id, run_month, run_id, seq, client_event_id, type, at, body)
        select id, org_id, run_month, run_id, seq, client_event_id, type, at, body::json
          from unnest(:ids::uuid[], :org_ids::uuid[], :months::date[], :run_ids::uuid[], :seqs::bigint[], :client_ids::text[],
                      :types::text[], :ats::timestamptz[], :bodies::text[])
            as t (id, org_id, run_month, run_id, seq, client_event_id, type, at, body)
            on conflict (run_month, run_id, client_event_id) do nothing
        returning id
        """,
        ids=[event.id for _, event in rows],
        org_ids=[run.org_id for run, _ in rows],
        months=[run.run_month for run, _ in rows],
        run_ids=[run.id for run, _ in rows],
        seqs=[event.seq for _, event in rows],
        client_ids=[event.client_event_id for _, event in rows],
        types=[event.type.value for _, event in rows],
        ats=[event.at for _, event in rows],
        bodies=[event.body for _, event in rows],
    )
    if len(written) < len(rows):
        fresh = {row["id"] for row in written}
        known: dict[RunId, set[str]] = {}
        for run, event in rows:
            if event.id not in fresh and event.client_event_id is not None:
                known.setdefault(run.id, set()).add(event.client_event_id)
        raise EventsKnown(known)


async def _insert_results(tx: Tx, journals: Sequence[Journal]) -> None:
    rows = [(journal.run, result, result.body) for journal in journals for result in journal.results]
    await execute(
        tx,
        """
        insert into results (id, org_id, run_month, run_id, seq, client_event_id, case_key, name, suite, file, line, outcome,
                             duration_ms, attempt, worker, host, message, error_hash, details, at)
        select id, org_id, run_month, run_id, seq, client_event_id, case_key, name, suite, file, line, outcome,
               duration_ms, attempt, worker, host, message, error_hash, details::jsonb, at
          from unnest(:ids::uuid[], :org_ids::uuid[], :months::date[], :run_ids::uuid[], :seqs::bigint[], :client_ids::text[],
                      :case_keys::text[], :names::text[], :suites::text[], :files::text[], :lines::int[], :outcomes::text[],
                      :durations::float8[], :attempts::int[], :workers::text[], :hosts::text[], :messages::text[],
                      :error_hashes::text[], :details::text[], :ats::timestamptz[])
            as t (id, org_id, run_month, run_id, seq, client_event_id, case_key, name, suite, file, line, outcome,
                  duration_ms, attempt, worker, host, message, error_hash, details, at)
        """,
        ids=[result.id for _, result, _ in rows],
        org_ids=[run.org_id for run, _, _ in rows],
        months=[run.run_month for run, _, _ in rows],
        run_ids=[run.id for run, _, _ in rows],
        seqs=[result.seq for _, result, _ in rows],
        client_ids=[result.client_event_id for _, result, _ in rows],
        case_keys=[body.case for _, _, body in rows],
        names=[body.name for _, _, body in rows],
        suites=[body.suite for _, _, body in rows],
        files=[body.file for _, _, body in rows],
        lines=[body.line for _, _, body in rows],
        outcomes=[body.outcome for _, _, body in rows],
        durations=[body.duration_ms for _, _, body in rows],
        attempts=[body.attempt for _, _, body in rows],
        workers=[body.worker for _, _, body in rows],
        hosts=[body.host for _, _, body in rows],
        messages=[body.message for _, _, body in rows],
        error_hashes=[result.error_hash for _, result, _ in rows],
        details=[result.details for _, result, _ in rows],
        ats=[result.at for _, result, _ in rows],
    )


async def _update_runs(tx: Tx, runs: Sequence[Run]) -> None:
    await execute(
        tx,
        """
        update runs
           set state = t.state, reason_code = t.reason_code, agent_id = t.agent_id, exit_code = t.exit_code,
               started_at = t.started_at, finished_at = t.finished_at, last_seq = t.last_seq, total = t.total,
               passed = t.passed, failed = t.failed, errors = t.errors, skipped = t.skipped, flaky = t.flaky
          from unnest(:ids::uuid[], :org_ids::uuid[], :states::text[], :reason_codes::text[], :agent_ids::uuid[], :exit_codes::int[],
                      :starts::timestamptz[], :ends::timestamptz[], :last_seqs::bigint[], :totals::int[], :passed::int[],
                      :failed::int[], :errors::int[], :skipped::int[], :flaky::int[])
            as t (id, org_id, state, reason_code, agent_id, exit_code, started_at, finished_at, last_seq, total, passed, failed,
                  errors, skipped, flaky)
         where runs.id = t.id
           and runs.org_id = t.org_id
        """,
        ids=[run.id for run in runs],
        org_ids=[run.org_id for run in runs],
        states=[run.state.value for run in runs],
        reason_codes=[run.reason_code for run in runs],
        agent_ids=[run.agent_id for run in runs],
        exit_codes=[run.exit_code for run in runs],
        starts=[run.started_at for run in runs],
        ends=[run.finished_at for run in runs],
        last_seqs=[run.last_seq for run in runs],
        totals=[run.total for run in runs],
        passed=[run.passed for run in runs],
        failed=[run.failed for run in runs],
        errors=[run.errors for run in runs],
        skipped=[run.skipped for run in runs],
        flaky=[run.flaky for run in runs],
    )
