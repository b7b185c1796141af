"""From what the services know to what the pages show. Pure."""

import shlex
from collections.abc import Sequence
from typing import Final

from probity.runs.browse.models import CaseAttempt, CaseSummary, RunDetail, RunSummary, Suite
from probity.runs.models import Artifact, Run, RunState
from probity.web.runs.views import ArtifactRow, Attempt, Case, Group, RunRow, Totals

# What a reason code means to whoever reads the run, and what to do about it.
_REASONS: Final = {
    "aborted": "Somebody aborted this run. Results and log until then are kept.",
    "cancelled": "The command was cancelled. Results and log until then are kept.",
    "timeout": "The command ran into its time limit and was stopped with everything it started. Give it more time or find what hangs.",
    "lease_expired": "The agent was silent for too long, so the run was closed. If it comes back with the rest, the run is completed.",
    "lease_lost": "The agent lost its hold on this run, so the run was closed. If it comes back with the rest, the run is completed.",
    "attempts_exhausted": "No agent finished this run in the attempts it had. Look at the agents' own logs.",
    "no_finish": "The job ended, but the agent never reported how the command ended.",
    "no_results": "The report holds no test case, so it proves nothing. Check which file was sent and that tests were collected.",
    "output_limit": "The command did not stop writing and was ended at its output limit. The log until there is kept.",
    "spawn_failed": "The command could not be started on the agent. Check that the program exists there and may be run.",
    "nonzero_exit": "The command ended with an error of its own. Its log says why.",
    "killed": "The command was killed on the agent's machine, perhaps because memory ran out there.",
    "invalid_cwd": "The working directory does not exist on the agent, or may not be used there.",
    "agent_error": "The agent itself failed while it ran the command. Its own log says how.",
    "disk_full": "The agent's disk is full. Make room there and run it again.",
    "agent_stopped": "The agent was stopped while the command ran. Run it again.",
    "agent_restarted": "The agent was restarted while the command ran. Run it again.",
    "unsupported_job": "The agent does not know this kind of job. Update the agent.",
    "invalid_payload": "The agent could not read the job. Update the agent.",
}

# Up to so many cases fit on a screen or two.
_ALL_OPEN: Final = 40


def reason_text(reason_code: str | None) -> str:
    if not reason_code:
        return ""
    return _REASONS.get(reason_code, f"The run ended with the reason “{reason_code.replace('_', ' ')}”.")


def row_of(run: RunSummary) -> RunRow:
    return RunRow(
        id=str(run.id),
        ref=f"RUN-{run.number}",
        name=run.name,
        state=run.state.value,
        reason=reason_text(run.reason_code),
        project=run.project or "",
        agent=run.agent or "",
        command="",
        totals=Totals(run.total, run.passed, run.failed, run.errors, run.skipped, run.flaky),
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
    )


def head_of(detail: RunDetail) -> RunRow:
    run = detail.run
    return RunRow(
        id=str(run.id),
        ref=run.label,
        name=run.name,
        state=run.state.value,
        reason=reason_text(run.reason_code),
        project=detail.project or "",
        agent=detail.agent or "",
        command=shlex.join(run.command) if run.command else "",
        totals=Totals(run.total, run.passed, run.failed, run.errors, run.skipped, run.flaky),
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
    )


def case_of(case: CaseSummary) -> Case:
    return Case(
        key=case.case_key,
        name=case.name,
        suite=case.suite,
        outcome=case.outcome.value,
        duration_ms=case.duration_ms,
        attempts=case.attempts,
        flaky=case.is_flaky,
        message=case.message or "",
    )


def groups_of(suites: Sequence[Suite], cases: Sequence[CaseSummary] | None, *, is_live: bool) -> list[Group]:
    """Return a group for each suite, with its rows where they came along.

    Open are the groups that someone should look at: where something failed or was retried, and, while the run lasts, the last one, which
    grows. In a small run all are.
    """
    total = sum(suite.total for suite in suites)
    rows: dict[str, list[Case]] = {}
    for case in cases or ():
        rows.setdefault(case.suite, []).append(case_of(case))
    return [
        Group(
            suite=suite.suite,
            total=suite.total,
            passed=suite.passed,
            bad=suite.bad,
            skipped=suite.skipped,
            duration_ms=suite.duration_ms,
            cases=None if cases is None else rows.get(suite.suite, []),
            is_open=cases is not None
            and (
                total <= _ALL_OPEN
                or (is_live and suite is suites[-1])
                or bool(suite.bad)
                or any(case.flaky for case in rows.get(suite.suite, ()))
            ),
        )
        for suite in suites
    ]


def attempt_of(attempt: CaseAttempt) -> Attempt:
    return Attempt(
        attempt=attempt.attempt,
        outcome=attempt.outcome.value,
        duration_ms=attempt.duration_ms,
        file=attempt.file or "",
        line=attempt.line,
        worker=attempt.worker or "",
        host=attempt.host or "",
        message=attempt.message or "",
        details=attempt.details or "",
        stdout=attempt.stdout or "",
        stderr=attempt.stderr or "",
    )


def waiting_for(run: Run) -> str:
    """Say what an empty page is waiting for."""
    if run.state is RunState.QUEUED:
        return "Waiting for an agent to take this run. It starts as soon as one that fits is online."
    return "Running. Results appear here as they come in."


def artifact_of(run_id: str, artifact: Artifact) -> ArtifactRow:
    return ArtifactRow(
        name=artifact.name,
        href=f"/api/v1/runs/{run_id}/artifacts/{artifact.id}",
        content_type=artifact.content_type,
        size_bytes=artifact.size_bytes,
        sha256=artifact.sha256,
    )
