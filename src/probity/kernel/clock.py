"""Time as an argument."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """Return the present moment, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back; only differences mean anything."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def rfc3339_millis(moment: datetime) -> str:
    """Return a moment in UTC with three fractional digits (`2025-01-01T00:00:00.000Z`), as JavaScript's `toISOString` does."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def rfc3339_nanos(moment: datetime) -> str:
    """Return a UTC moment with nine fractional digits (`2025-01-01T00:00:00.000000000Z`). Source: secrets.md 3.7."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:26] + "000Z"
