"""What live readers are told: one JSON object per event. Contract: webtest.md §5.6, §7.1; our own fields stand beside its.

Screens that know the contract read `testName`, `status` and `message`; ours read `name`, `outcome` and `text`.
"""

from typing import Any, Final

import msgspec

from probity.kernel.clock import rfc3339_millis
from probity.runs.ingest.journal import LogBody, ResultBody, StateBody
from probity.runs.live.store import StoredEvent
from probity.runs.models import EventType, Outcome, Run
from probity.runs.schemas import SENTRI_STATUS, RunOut

_RESULT_STATUS: Final = {
    Outcome.PASSED: "passed",
    Outcome.XPASSED: "passed",
    Outcome.FAILED: "failed",
    Outcome.ERROR: "failed",
    Outcome.SKIPPED: "skipped",
    Outcome.XFAILED: "skipped",
}
_LEVEL: Final = {"stdout": "info", "stderr": "warn", "system": "info"}

_decode_result: Final = msgspec.json.Decoder(ResultBody).decode
_decode_log: Final = msgspec.json.Decoder(LogBody).decode
_decode_state: Final = msgspec.json.Decoder(StateBody).decode


def message(event: StoredEvent) -> dict[str, Any]:
    """Return the message of one event."""
    match event.type:
        case EventType.RESULT:
            body = _decode_result(event.body)
            return {"type": "result", "seq": event.seq, "result": _result(body, event), "totals": body.totals}
        case EventType.LOG:
            log = _decode_log(event.body)
            return {"type": "log", "seq": event.seq, "message": log_line(event, log), "level": _LEVEL[log.stream], "stream": log.stream,
                    "text": log.text, "at": event.at}  # fmt: skip
        case EventType.STATUS:
            state = _decode_state(event.body)
            return {"type": "status", "seq": event.seq, "status": SENTRI_STATUS[state.state], **_without_nulls(state)}
        case EventType.ARTIFACT:
            return {"type": "artifact", "seq": event.seq, "artifact": msgspec.Raw(event.body.encode())}
        case EventType.DONE:
            state = _decode_state(event.body)
            totals = state.totals
            return {
                "type": "done",
                "seq": event.seq,
                "status": SENTRI_STATUS[state.state],
                "passed": totals.passed if totals else 0,
                "failed": totals.failed + totals.errors if totals else 0,
                "total": totals.total if totals else 0,
                "duration": _duration_ms(state),
                **_without_nulls(state),
            }


def snapshot(run: Run, results: list[StoredEvent], logs: list[StoredEvent], *, cut: bool) -> dict[str, Any]:
    """Return the first message of a stream: the run as it is after sequence number `seq`."""
    return {"type": "snapshot", "seq": run.last_seq, "run": full_run(run, results, logs, cut=cut)}


def full_run(run: Run, results: list[StoredEvent], logs: list[StoredEvent], *, cut: bool) -> dict[str, Any]:
    """Return a run with its results and log lines; `truncated` says that earlier ones were left out."""
    return {
        **msgspec.structs.asdict(RunOut.of(run)),
        "results": [_result(_decode_result(event.body), event) for event in results],
        "logs": [log_line(event, _decode_log(event.body)) for event in logs],
        "tests": [],
        "pages": [],
        "videoSegments": [],
        "testQueue": None,
        "truncated": cut,
    }


def done(run: Run) -> dict[str, Any]:
    """Return the last message for a reader who comes after the end."""
    out = RunOut.of(run)
    return {
        "type": "done",
        "seq": run.last_seq,
        "status": out.status,
        "passed": out.passed,
        "failed": out.failed,
        "total": out.total,
        "duration": out.duration,
        "state": run.state,
        "reason_code": run.reason_code,
        "exit_code": run.exit_code,
        "totals": run.totals,
    }


def log_line(event: StoredEvent, log: LogBody) -> str:
    return f"[{rfc3339_millis(event.at)}] {log.text.removesuffix(chr(10))}"


def _result(body: ResultBody, event: StoredEvent) -> dict[str, Any]:
    status = _RESULT_STATUS[Outcome(body.outcome)]
    return {
        "testId": body.case,
        "testName": body.name,
        "status": status,
        "durationMs": round(body.duration_ms),
        "startedAt": round(event.at.timestamp() * 1000 - body.duration_ms),
        "error": body.message,
        "retryCount": body.attempt - 1,
        "failedAfterRetry": status == "failed" and body.attempt > 1,
        "seq": event.seq,
        "at": event.at,
        "case": body.case,
        "name": body.name,
        "suite": body.suite,
        "file": body.file,
        "line": body.line,
        "outcome": body.outcome,
        "duration_ms": body.duration_ms,
        "attempt": body.attempt,
        "message": body.message,
        "worker": body.worker,
        "host": body.host,
    }


def _duration_ms(state: StateBody) -> int | None:
    if state.started_at is None or state.finished_at is None:
        return None
    return round((state.finished_at - state.started_at).total_seconds() * 1000)


def _without_nulls(state: StateBody) -> dict[str, Any]:
    """A client merges what it gets into the row that it shows, so nothing may be null that is only not said here."""
    return {name: value for name, value in msgspec.structs.asdict(state).items() if value is not None}
