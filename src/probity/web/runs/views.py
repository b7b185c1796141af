"""What the run pages show, already decided: templates only lay it out."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from probity.web.formats import number, plural
from probity.web.query import Choice, ListQuery

LIVE_STATES: Final = frozenset({"queued", "running"})
# The order of the line: what needs someone comes first.
_BAR_ORDER: Final = ("failed", "errors", "flaky", "passed", "skipped")
_VISIBLE: Final = 0.02


class Share(msgspec.Struct, frozen=True):
    """A part of the totals bar, in percent of its width."""

    key: str
    start: float
    width: float


class Totals(msgspec.Struct, frozen=True):
    total: int = 0
    passed: int = 0
    failed: int = 0
    errors: int = 0
    skipped: int = 0
    flaky: int = 0

    @property
    def short(self) -> str:
        """Say the one thing that matters, with its denominator."""
        bad = self.failed + self.errors
        if bad:
            return f"{plural(bad, 'failed', 'failed')} of {number(self.total)}"
        if self.flaky:
            return f"{plural(self.passed, 'passed', 'passed')}, {self.flaky} flaky"
        return f"{plural(self.passed, 'passed', 'passed')} of {number(self.total)}"

    @property
    def words(self) -> str:
        parts = [plural(getattr(self, key), word, word) for key, word in _WORDS if getattr(self, key)]
        return f"{', '.join(parts) or 'no results'} of {self.total}"

    @property
    def shares(self) -> tuple[Share, ...]:
        """Return the parts of the bar in the order they are drawn.

        A flaky case also passed, so it is taken from the passed. A part that is not empty has at least `_VISIBLE` of the width: one
        failure among ten thousand must not vanish.
        """
        counts = {key: getattr(self, key) for key in _BAR_ORDER}
        counts["passed"] = max(0, self.passed - self.flaky)
        known = max(1, sum(counts.values()))
        floors = {key: max(count / known, _VISIBLE) if count else 0.0 for key, count in counts.items()}
        whole = sum(floors.values())
        parts: list[Share] = []
        start = 0.0
        for key in _BAR_ORDER:
            width = 100 * floors[key] / whole if whole else 0.0
            parts.append(Share(key, round(start, 1), round(width, 1)))
            start += width
        return tuple(parts)


_WORDS: Final = (("failed", "failed"), ("errors", "errors"), ("flaky", "flaky"), ("passed", "passed"), ("skipped", "skipped"))


class RunRow(msgspec.Struct, frozen=True):
    """A run in a list and in the head of its own page."""

    id: str
    ref: str
    name: str
    state: str
    reason: str
    project: str
    agent: str
    command: str
    totals: Totals
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def href(self) -> str:
        return f"/runs/{self.ref}"

    @property
    def is_live(self) -> bool:
        return self.state in LIVE_STATES

    @property
    def nothing_yet(self) -> str:
        return {"queued": "waiting for an agent", "running": "no results yet"}.get(self.state, "no results")


class RunsPage(msgspec.Struct, frozen=True):
    query: ListQuery
    rows: Sequence[RunRow]
    count: int
    states: Sequence[Choice]
    projects: Sequence[tuple[str, str]]
    next_href: str

    @property
    def href(self) -> str:
        return self.query.href()

    @property
    def poll_s(self) -> int:
        return 3 if any(row.is_live for row in self.rows) else 6


class Case(msgspec.Struct, frozen=True):
    """One case of a run: its last attempt, and how many there were."""

    key: str
    name: str
    suite: str
    outcome: str
    duration_ms: float | None
    attempts: int
    flaky: bool
    message: str


class Group(msgspec.Struct, frozen=True):
    """The cases of one suite. `cases` is None when they come only once the group is opened."""

    suite: str
    total: int
    passed: int
    bad: int
    skipped: int
    duration_ms: float | None
    cases: Sequence[Case] | None
    is_open: bool


class Attempt(msgspec.Struct, frozen=True):
    attempt: int
    outcome: str
    duration_ms: float | None
    file: str
    line: int | None
    worker: str
    host: str
    message: str
    details: str
    stdout: str
    stderr: str


class ArtifactRow(msgspec.Struct, frozen=True):
    name: str
    href: str
    content_type: str
    size_bytes: int
    sha256: str


BLANK_CASE: Final = Case(key="", name="", suite="", outcome="failed", duration_ms=0, attempts=2, flaky=True, message="-")
BLANK_LINE: Final = Case(key="", name="", suite="", outcome="passed", duration_ms=0, attempts=1, flaky=False, message="")
BLANK_GROUP: Final = Group(suite="", total=0, passed=0, bad=0, skipped=0, duration_ms=0, cases=(), is_open=True)


class RunPage(msgspec.Struct, frozen=True):
    run: RunRow
    tab: str
    last_seq: int
    failures: Sequence[Case]
    failure_count: int
    groups: Sequence[Group]
    has_more_suites: bool
    artifacts: Sequence[ArtifactRow]
    may_abort: bool
    events_href: str
    log_href: str
    waiting_for: str

    @property
    def tabs(self) -> tuple[tuple[str, str, int | None], ...]:
        return (
            ("results", "Results", self.run.totals.total),
            ("log", "Log", None),
            ("artifacts", "Artifacts", len(self.artifacts)),
        )

    blank_case = BLANK_CASE
    blank_line = BLANK_LINE
    blank_group = BLANK_GROUP
    # Live rows take their badge from a template of the page, so that scripts hold no markup of their own.
    state_values = ("queued", "running", "passed", "failed", "error", "aborted", "skipped", "xfailed", "xpassed")
