"""Builders with defaults for runs and their events."""

from datetime import UTC, datetime
from itertools import count

from probity.runs.ingest.schemas import FinishedEvent, LogEvent, ResultEvent, StatusEvent
from probity.runs.models import Outcome
from probity.runs.schemas import NewRunIn

_ids = count(1)
MOMENT = datetime(2026, 1, 1, 12, tzinfo=UTC)


def a_run(**changes: object) -> NewRunIn:
    return NewRunIn(**({"name": "nightly"} | changes))  # type: ignore[arg-type]


def a_result(case: str = "suite::case", outcome: Outcome = Outcome.PASSED, **changes: object) -> ResultEvent:
    fields: dict[str, object] = {
        "id": f"e{next(_ids)}",
        "at": MOMENT,
        "case": case,
        "name": case.rpartition("::")[2],
        "outcome": outcome,
        "duration_ms": 1.5,
    }
    return ResultEvent(**(fields | changes))  # type: ignore[arg-type]


def a_log(text: str = "hello\n", **changes: object) -> LogEvent:
    fields: dict[str, object] = {"id": f"e{next(_ids)}", "at": MOMENT, "stream": "stdout", "text": text}
    return LogEvent(**(fields | changes))  # type: ignore[arg-type]


def a_start(**changes: object) -> StatusEvent:
    fields: dict[str, object] = {"id": f"e{next(_ids)}", "at": MOMENT, "state": "running"}
    return StatusEvent(**(fields | changes))  # type: ignore[arg-type]


def a_finish(exit_code: int | None = 0, **changes: object) -> FinishedEvent:
    fields: dict[str, object] = {"id": f"e{next(_ids)}", "at": MOMENT, "exit_code": exit_code}
    return FinishedEvent(**(fields | changes))  # type: ignore[arg-type]
