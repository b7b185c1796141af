"""Shapes on the wire: our own names, and beside them those of the Sentri contract for what its clients read."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec

from probity.runs.models import Run, RunKind, RunState, Totals

Argument = Annotated[str, msgspec.Meta(max_length=131_072)]
ShortText = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Glob = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class NewRunIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A run to be dispatched (`command`) or reported by somebody else's CI (no command)."""

    kind: RunKind | None = None
    name: ShortText | None = None
    project: ShortText | None = None
    trigger: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_-]{0,49}$")] | None = None
    command: Annotated[list[Argument], msgspec.Meta(min_length=1, max_length=1000)] | None = None
    cwd: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)] | None = None
    env: Annotated[
        dict[Annotated[str, msgspec.Meta(pattern="^[A-Za-z_][A-Za-z0-9_]{0,199}$")], Argument], msgspec.Meta(max_length=200)
    ] = {}
    timeout_s: Annotated[int, msgspec.Meta(ge=1, le=604_800)] = 3600
    output_limit_bytes: Annotated[int, msgspec.Meta(ge=0, le=1_073_741_824)] = 52_428_800
    agent: ShortText | None = None
    tags: Annotated[list[Annotated[str, msgspec.Meta(min_length=1, max_length=100)]], msgspec.Meta(max_length=50)] = []
    junit: Annotated[list[Glob], msgspec.Meta(max_length=50)] = []
    artifacts: Annotated[list[Glob], msgspec.Meta(max_length=50)] = []
    pytest_live: bool = True
    client_run_id: ShortText | None = None


class FinishIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    exit_code: Annotated[int, msgspec.Meta(ge=-2_147_483_648, le=2_147_483_647)] | None = None
    reason_code: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] | None = None


# Contract: webtest.md §5.5 (status), §5.6. A run that waits for its agent is in progress for a client that knows no queue.
SENTRI_STATUS = {
    RunState.QUEUED: "running",
    RunState.RUNNING: "running",
    RunState.PASSED: "completed",
    RunState.FAILED: "completed",
    RunState.ERROR: "failed",
    RunState.ABORTED: "aborted",
}


class RunOut(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `id` is the human number; `uuid` names it everywhere."""

    id: str
    uuid: UUID
    number: int
    name: str
    kind: RunKind
    state: RunState
    reason_code: str | None
    trigger: str
    project_id: UUID | None
    job_id: UUID | None
    agent_id: UUID | None
    command: list[str] | None
    exit_code: int | None
    client_run_id: str | None
    created_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    duration_ms: int | None
    last_seq: int
    totals: Totals
    # The Sentri contract from here on.
    projectId: UUID | None
    workspaceId: UUID
    type: str
    status: str
    startedAt: datetime
    finishedAt: datetime | None
    duration: int | None
    error: str | None
    errorCategory: str | None
    passed: int
    failed: int
    total: int

    @classmethod
    def of(cls, run: Run) -> "RunOut":
        return cls(
            id=run.label,
            uuid=run.id,
            number=run.number,
            name=run.name,
            kind=run.kind,
            state=run.state,
            reason_code=run.reason_code,
            trigger=run.trigger,
            project_id=run.project_id,
            job_id=run.job_id,
            agent_id=run.agent_id,
            command=run.command,
            exit_code=run.exit_code,
            client_run_id=run.client_run_id,
            created_by=run.created_by,
            created_at=run.created_at,
            started_at=run.started_at,
            finished_at=run.finished_at,
            duration_ms=run.duration_ms,
            last_seq=run.last_seq,
            totals=run.totals,
            projectId=run.project_id,
            workspaceId=run.org_id,
            type="test_run",
            status=SENTRI_STATUS[run.state],
            startedAt=run.started_at or run.created_at,
            finishedAt=run.finished_at,
            duration=run.duration_ms,
            error=error_text(run),
            errorCategory=run.reason_code if run.state is RunState.ERROR else None,
            passed=run.passed,
            failed=run.failed + run.errors,
            total=run.total,
        )


def error_text(run: Run) -> str | None:
    """Return what went wrong with the run as a whole, for people."""
    if run.state is RunState.ABORTED:
        return "Aborted by user"
    if run.state is RunState.ERROR:
        return (run.reason_code or "error").replace("_", " ")
    return None
