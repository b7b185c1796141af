"""Pure decisions: how attempts add up to totals, how a run ends, what may follow what."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from probity.runs.models import Outcome, RunState, Totals

MAX_CASE_KEY_CHARS: Final = 500

# Reason codes with which the server closes a run that it lost sight of. If its agent comes back with the rest, the run is settled
# by what really happened.
LOST_SIGHT: Final = frozenset({"lease_expired", "lease_lost", "attempts_exhausted", "no_finish"})

_BUCKET: Final[Mapping[Outcome, str]] = {
    Outcome.PASSED: "passed",
    Outcome.XPASSED: "passed",
    Outcome.FAILED: "failed",
    Outcome.ERROR: "errors",
    Outcome.SKIPPED: "skipped",
    Outcome.XFAILED: "skipped",
}


class CaseState(msgspec.Struct, frozen=True):
    """What the attempts of one case come to so far: the final one (highest attempt, then latest), and whether any failed."""

    attempt: int
    seq: int
    outcome: Outcome
    has_failed: bool

    @classmethod
    def of(cls, attempt: int, seq: int, outcome: Outcome) -> "CaseState":
        """Return the state of a case after this attempt alone."""
        return cls(attempt, seq, outcome, outcome in (Outcome.FAILED, Outcome.ERROR))


def merged(before: CaseState | None, new: CaseState) -> CaseState:
    """Return the state of a case after one more attempt, whatever the order in which attempts arrive."""
    if before is None:
        return new
    last = new if (new.attempt, new.seq) >= (before.attempt, before.seq) else before
    return CaseState(last.attempt, last.seq, last.outcome, before.has_failed or new.has_failed)


class Tally:
    """Running totals of one run; feed it results in the order of the sequence.

    The outcome does not depend on the order in which attempts arrive: the final attempt of a case is the one with the highest number.
    """

    __slots__ = ("_cases", "_counts", "_flaky")

    def __init__(self, totals: Totals = Totals(), cases: Mapping[str, CaseState] | None = None) -> None:  # noqa: B008  (frozen)
        self._counts = {"passed": totals.passed, "failed": totals.failed, "errors": totals.errors, "skipped": totals.skipped}
        self._flaky = totals.flaky
        self._cases = dict(cases or {})

    def add(self, case_key: str, *, attempt: int, seq: int, outcome: Outcome) -> None:
        before = self._cases.get(case_key)
        after = merged(before, CaseState.of(attempt, seq, outcome))
        if before is not None:
            self._count(before, -1)
        self._count(after, +1)
        self._cases[case_key] = after

    def totals(self) -> Totals:
        return Totals(total=sum(self._counts.values()), flaky=self._flaky, **self._counts)

    def _count(self, case: CaseState, by: int) -> None:
        bucket = _BUCKET[case.outcome]
        self._counts[bucket] += by
        if bucket == "passed" and case.has_failed:
            self._flaky += by


def tally(results: Iterable[tuple[str, int, Outcome]]) -> Totals:
    """Return the totals of `(case key, attempt, outcome)` in the order of their sequence."""
    counting = Tally()
    for seq, (case_key, attempt, outcome) in enumerate(results, start=1):
        counting.add(case_key, attempt=attempt, seq=seq, outcome=outcome)
    return counting.totals()


def verdict(totals: Totals, *, exit_code: int | None, reason_code: str | None) -> RunState:
    """Return the state in which a run ends.

    A reason (time limit, lost agent, could not start) makes it an error, except that a cancelled command is an aborted run. Failing
    results fail it even if the command hides them behind exit code 0.
    """
    if reason_code in ("cancelled", "aborted"):
        return RunState.ABORTED
    if reason_code is not None:
        return RunState.ERROR
    if totals.failed or totals.errors or exit_code:
        return RunState.FAILED
    return RunState.PASSED


def may_finish(state: RunState, reason_code: str | None) -> bool:
    """Say whether a `finished` event decides the run: once, or again after the server had only lost sight of it."""
    return not state.is_final or (state is RunState.ERROR and reason_code in LOST_SIGHT)


def case_key(text: str) -> str:
    """Return a key of at most 500 characters: a longer one keeps its start and is told apart by a hash (an index entry is bounded)."""
    text = storable(text)
    if len(text) <= MAX_CASE_KEY_CHARS:
        return text
    return f"{text[: MAX_CASE_KEY_CHARS - 34]}…#{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def storable(text: str) -> str:
    """Replace the character NUL, which programs do print and PostgreSQL cannot store."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}") if "\x00" in text else text


def storable_or_none(text: str | None) -> str | None:
    return None if text is None else storable(text)


def error_hash(message: str | None) -> str | None:
    """Return the hash that groups failures with the same message. Source: quality.md §10.4, ingest form."""
    if message is None:
        return None
    return hashlib.md5(f"{message}::".encode(), usedforsecurity=False).hexdigest()
