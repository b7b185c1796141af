"""The vocabulary of runs."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Final, NewType
from uuid import UUID

import msgspec

from probity.kernel.principal import AgentId, OrgId

RunId = NewType("RunId", UUID)
ResultId = NewType("ResultId", UUID)
ArtifactId = NewType("ArtifactId", UUID)
# How a client names a run: by its id or by its human number.
RunRef = RunId | int

# Wake-up channel; key: `<organization>/<run>`, both as UUIDs. The run has moved.
RUN_CHANNEL: Final = "runs"


class RunState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    ABORTED = "aborted"

    @property
    def is_final(self) -> bool:
        return self not in (RunState.QUEUED, RunState.RUNNING)


class RunKind(StrEnum):
    """Who carries the run: an agent of ours, somebody else's CI, or nobody any more (an imported report)."""

    COMMAND = "command"
    EXTERNAL = "external"
    IMPORT = "import"


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"
    XFAILED = "xfailed"
    XPASSED = "xpassed"


class EventType(StrEnum):
    STATUS = "status"
    LOG = "log"
    RESULT = "result"
    ARTIFACT = "artifact"
    DONE = "done"


class Totals(msgspec.Struct, frozen=True):
    """Cases by the outcome of their final attempt; `flaky` are those of `passed` that failed before."""

    total: int = 0
    passed: int = 0
    failed: int = 0
    errors: int = 0
    skipped: int = 0
    flaky: int = 0


class Run(msgspec.Struct, frozen=True, kw_only=True):
    id: RunId
    org_id: OrgId
    run_month: date
    number: int
    project_id: UUID | None
    kind: RunKind
    name: str
    state: RunState
    reason_code: str | None
    trigger: str
    job_id: UUID | None
    agent_id: AgentId | None
    command: list[str] | None
    exit_code: int | None
    created_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    last_seq: int
    total: int
    passed: int
    failed: int
    errors: int
    skipped: int
    flaky: int
    client_run_id: str | None
    meta: Mapping[str, object]

    @property
    def label(self) -> str:
        """The human number, `RUN-42`. Another organization has the same one."""
        return f"RUN-{self.number}"

    @property
    def totals(self) -> Totals:
        return Totals(self.total, self.passed, self.failed, self.errors, self.skipped, self.flaky)

    @property
    def duration_ms(self) -> int | None:
        """From start to end; None while it is not known."""
        if self.started_at is None or self.finished_at is None:
            return None
        return max(0, round((self.finished_at - self.started_at).total_seconds() * 1000))


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    id: ArtifactId
    run_id: RunId
    name: str
    content_type: str
    size_bytes: int
    sha256: str
    blob_key: str
    created_by: str
    created_at: datetime


class Ingested(msgspec.Struct, frozen=True):
    """What became of a batch: events taken, events that were there already, and the sequence the run has reached."""

    accepted: int
    duplicates: int
    last_seq: int


def month_of(run_id: UUID) -> date:
    """Return the first day of the month (UTC) in which a UUIDv7 was made: the partition of everything that belongs to the run."""
    made = datetime.fromtimestamp((run_id.int >> 80) / 1000, UTC)
    return date(made.year, made.month, 1)


def floor_at(unix_s: float) -> UUID:
    """Return the smallest id that can have been made at that moment, so that `id >= floor` means "made since then"."""
    milliseconds = min(max(0, int(unix_s * 1000)), (1 << 48) - 1)
    return UUID(int=milliseconds << 80)
