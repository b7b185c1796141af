"""What clients send: batches of events. Source: the wire of our own endpoints; ids are the client's and make a repeat harmless."""

from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec

from probity.runs.models import Outcome

MAX_EVENTS: Final = 1000
# A batch of 1,000 results with long tracebacks fits.
EVENTS_BODY_LIMIT: Final = 16 * 1024 * 1024

EventId = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Name = Annotated[str, msgspec.Meta(max_length=4000)]
Label = Annotated[str, msgspec.Meta(max_length=500)]
Text = Annotated[str, msgspec.Meta(max_length=1_000_000)]


class ResultEvent(msgspec.Struct, tag_field="type", tag="result", forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One attempt of one case."""

    id: EventId
    at: Moment
    case: Annotated[str, msgspec.Meta(min_length=1, max_length=4100)]
    name: Name
    suite: Name | None = None
    file: Name | None = None
    line: Annotated[int, msgspec.Meta(ge=0, le=2_147_483_647)] | None = None
    outcome: Outcome
    duration_ms: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    attempt: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    message: Text | None = None
    details: Text | None = None
    stdout: Text | None = None
    stderr: Text | None = None
    worker: Label | None = None
    host: Label | None = None


class LogEvent(msgspec.Struct, tag_field="type", tag="log", forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A piece of output; pieces join without anything between them."""

    id: EventId
    at: Moment
    stream: Literal["stdout", "stderr", "system"]
    text: Text


class StatusEvent(msgspec.Struct, tag_field="type", tag="status", forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The command has started."""

    id: EventId
    at: Moment
    state: Literal["running"]


class FinishedEvent(msgspec.Struct, tag_field="type", tag="finished", forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The command has ended; the state follows from the exit code, the reason and the results."""

    id: EventId
    at: Moment
    exit_code: Annotated[int, msgspec.Meta(ge=-2_147_483_648, le=2_147_483_647)] | None = None
    reason_code: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] | None = None


EventIn = ResultEvent | LogEvent | StatusEvent | FinishedEvent


class EventBatch(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    events: Annotated[list[EventIn], msgspec.Meta(min_length=1, max_length=MAX_EVENTS)]
