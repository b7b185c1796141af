"""Server-sent events as a stream of lines. Pure; source: HTML standard, "Server-sent events", interpretation of an event stream."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """`last_id` is the id in force after this event, empty when none was given yet."""

    data: str
    name: str = "message"
    last_id: str = ""


def parse(lines: Iterable[str]) -> Iterator[ServerSentEvent]:
    """Yield the events of a stream; an event that is cut off at the end is dropped, as the standard demands."""
    data: list[str] = []
    name = last_id = ""
    for line in lines:
        if not line:
            if data:
                yield ServerSentEvent("\n".join(data), name or "message", last_id)
            data, name = [], ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            name = value
        elif field == "id" and "\0" not in value:
            last_id = value
