"""What people see of runs."""

import re
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from probity.kernel.principal import AgentId
from probity.runs.models import Outcome, Run, RunId, RunState

# Counting stops here, so that a title never costs a scan of everything.
COUNT_LIMIT: Final = 10_000
_NUMBER: Final = re.compile(r"(RUN-)?([1-9][0-9]{0,17})", re.IGNORECASE)


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What a list of runs is narrowed to; `before` is the last run of the page before. `RUN-42` as text means that run and no other."""

    state: RunState | None = None
    project_id: UUID | None = None
    agent_id: AgentId | None = None
    text: str | None = None
    before: RunId | None = None
    limit: int = 50

    @property
    def number(self) -> int | None:
        """The human number that the text names, with or without its prefix."""
        named = _NUMBER.fullmatch(self.text or "")
        return int(named[2]) if named else None

    @property
    def is_label(self) -> bool:
        named = _NUMBER.fullmatch(self.text or "")
        return named is not None and bool(named[1])


class RunningRun(msgspec.Struct, frozen=True):
    agent_id: AgentId
    number: int


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One run in a list, with the names of what it belongs to."""

    id: RunId
    number: int
    name: str
    state: RunState
    reason_code: str | None
    project: str | None
    agent: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    total: int
    passed: int
    failed: int
    errors: int
    skipped: int
    flaky: int


class RunPage(msgspec.Struct, frozen=True):
    """A page of runs. `count` is exact up to `COUNT_LIMIT`, which stands for "so many or more"."""

    runs: list[RunSummary]
    count: int
    next_before: RunId | None


class RunDetail(msgspec.Struct, frozen=True):
    run: Run
    project: str | None
    agent: str | None


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    """The final attempts of one suite, counted. `suite` is the suite's name, else the file, else empty."""

    suite: str
    total: int
    passed: int
    bad: int
    skipped: int
    duration_ms: float


class CaseSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The final attempt of one case. `first_seq` is where the case first appeared: the order of the page, and its key."""

    first_seq: int
    case_key: str
    name: str
    suite: str
    outcome: Outcome
    duration_ms: float
    attempts: int
    has_failed: bool
    message: str | None

    @property
    def is_flaky(self) -> bool:
        return self.has_failed and self.outcome in (Outcome.PASSED, Outcome.XPASSED)


class CaseAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt, with its long texts."""

    attempt: int
    name: str
    outcome: Outcome
    duration_ms: float
    file: str | None
    line: int | None
    worker: str | None
    host: str | None
    message: str | None
    details: str | None
    stdout: str | None
    stderr: str | None


class LogPiece(msgspec.Struct, frozen=True):
    seq: int
    stream: str
    text: str


class ProjectChoice(msgspec.Struct, frozen=True):
    id: UUID
    name: str
