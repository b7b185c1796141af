"""Prepares what is appended to a run that is locked: numbers events, counts results, moves the state. No reading, no writing."""

from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from probity.kernel.ids import new_id
from probity.runs import rules
from probity.runs.ingest.schemas import EventIn, FinishedEvent, LogEvent, ResultEvent, StatusEvent
from probity.runs.models import EventType, Run, RunState, Totals

_LONG_TEXTS: Final = ("details", "stdout", "stderr")


class EventRow(msgspec.Struct, frozen=True, gc=False):
    """One row of `run_events`; `body` is JSON text."""

    id: UUID
    seq: int
    client_event_id: str | None
    type: EventType
    at: datetime
    body: str


class ResultRow(msgspec.Struct, frozen=True, gc=False):
    id: UUID
    seq: int
    client_event_id: str
    at: datetime
    body: "ResultBody"
    error_hash: str | None
    details: str | None


class ResultBody(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A result as live readers get it: without the long texts, with the totals that it leads to."""

    case: str
    name: str
    outcome: str
    duration_ms: float
    attempt: int
    suite: str | None = None
    file: str | None = None
    line: int | None = None
    worker: str | None = None
    host: str | None = None
    message: str | None = None
    totals: Totals


class LogBody(msgspec.Struct, frozen=True):
    stream: str
    text: str


class StateBody(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A change of state, as far as watchers need it to update a row that they show."""

    state: RunState
    name: str | None = None
    trigger: str | None = None
    command: list[str] | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    reason_code: str | None = None
    exit_code: int | None = None
    totals: Totals | None = None


class Journal:
    """Additions to one locked run. `run` is the run as it will be; `events` and `results` are the rows to write."""

    def __init__(
        self, run: Run, *, known: set[str] | None = None, cases: dict[str, rules.CaseState] | None = None, tally: rules.Tally | None = None
    ) -> None:
        self.run = run
        self.events: list[EventRow] = []
        self.results: list[ResultRow] = []
        self.has_finished = False
        self._known = known if known is not None else set()
        self._tally = tally or rules.Tally(run.totals, cases)
        self._seq = run.last_seq

    @property
    def totals(self) -> Totals:
        return self._tally.totals()

    def next(self, run: Run) -> "Journal":
        """Return a journal that goes on behind this one, which was written; `run` is what closing it gave."""
        return Journal(run, known=self._known, tally=self._tally)

    def take(self, event: EventIn) -> bool:
        """Append a client's event; False when its id is known, whatever it says now (the first one wins)."""
        if event.id in self._known:
            return False
        self._known.add(event.id)
        if self.run.state is RunState.QUEUED and not isinstance(event, FinishedEvent | StatusEvent):
            self.start(event.at)
        match event:
            case ResultEvent():
                self._take_result(event)
            case LogEvent():
                self._append(EventType.LOG, event.at, LogBody(event.stream, rules.storable(event.text)), client_id=event.id)
            case StatusEvent():
                self.start(event.at, client_id=event.id)
            case FinishedEvent():
                self._take_finished(event)
        return True

    def created(self) -> None:
        run = self.run
        body = StateBody(state=run.state, name=run.name, trigger=run.trigger, command=run.command, started_at=run.started_at)
        self._append(EventType.STATUS, run.created_at, body)

    def start(self, at: datetime, *, client_id: str | None = None) -> None:
        """The command runs. A repeat, or one that comes after the end, is noted and changes nothing."""
        if self.run.state is RunState.QUEUED:
            self._change(state=RunState.RUNNING, started_at=at)
        body = StateBody(state=self.run.state, name=self.run.name, command=self.run.command, started_at=self.run.started_at)
        self._append(EventType.STATUS, at, body, client_id=client_id)

    def finish(
        self, state: RunState, at: datetime, *, reason_code: str | None = None, exit_code: int | None = None, client_id: str | None = None
    ) -> None:
        """The run ends in `state`; the caller has decided that it may."""
        run = self.run
        started_at = run.started_at or run.created_at
        self._change(state=state, reason_code=reason_code, exit_code=exit_code, started_at=started_at, finished_at=max(at, started_at))
        body = StateBody(
            state=state,
            name=run.name,
            reason_code=reason_code,
            exit_code=exit_code,
            started_at=started_at,
            finished_at=self.run.finished_at,
            totals=self._tally.totals(),
        )
        self._append(EventType.DONE, at, body, client_id=client_id)
        self.has_finished = True

    def note_artifact(self, at: datetime, body: msgspec.Struct) -> None:
        self._append(EventType.ARTIFACT, at, body)

    def close(self) -> Run:
        """Return the run with its new sequence and totals; call it last."""
        totals = self._tally.totals()
        self._change(last_seq=self._seq, **{name: getattr(totals, name) for name in Totals.__struct_fields__})
        return self.run

    def _take_result(self, event: ResultEvent) -> None:
        case_key = rules.case_key(event.case)
        self._tally.add(case_key, attempt=event.attempt, seq=self._seq + 1, outcome=event.outcome)
        body = ResultBody(
            case=case_key,
            name=rules.storable(event.name),
            outcome=event.outcome.value,
            duration_ms=event.duration_ms,
            attempt=event.attempt,
            suite=rules.storable_or_none(event.suite),
            file=rules.storable_or_none(event.file),
            line=event.line,
            worker=rules.storable_or_none(event.worker),
            host=rules.storable_or_none(event.host),
            message=rules.storable_or_none(event.message),
            totals=self._tally.totals(),
        )
        row = self._append(EventType.RESULT, event.at, body, client_id=event.id)
        long_texts = {name: rules.storable(text) for name in _LONG_TEXTS if (text := getattr(event, name)) is not None}
        self.results.append(
            ResultRow(
                id=row.id,
                seq=row.seq,
                client_event_id=row.client_event_id or "",
                at=row.at,
                body=body,
                error_hash=rules.error_hash(body.message),
                details=msgspec.json.encode(long_texts).decode() if long_texts else None,
            )
        )

    def _take_finished(self, event: FinishedEvent) -> None:
        if rules.may_finish(self.run.state, self.run.reason_code):
            state = rules.verdict(self._tally.totals(), exit_code=event.exit_code, reason_code=event.reason_code)
            self.finish(
                state, event.at, reason_code=rules.storable_or_none(event.reason_code), exit_code=event.exit_code, client_id=event.id
            )
        else:
            body = StateBody(state=self.run.state, reason_code=self.run.reason_code, exit_code=event.exit_code)
            self._append(EventType.STATUS, event.at, body, client_id=event.id)

    def _append(self, kind: EventType, at: datetime, body: msgspec.Struct, *, client_id: str | None = None) -> EventRow:
        self._seq += 1
        row = EventRow(new_id(), self._seq, client_id, kind, at, msgspec.json.encode(body).decode())
        self.events.append(row)
        return row

    def _change(self, **changes: object) -> None:
        self.run = msgspec.structs.replace(self.run, **changes)
