"""How numbers, times and durations read on a page. Pure functions; `static/app.js` mirrors the ones that tick."""

from datetime import UTC, datetime, timedelta

_MINUTE = 60
_HOUR = 3600
_DAY = 86_400


def duration(milliseconds: float | None) -> str:
    """Return a duration as people say it: `<1 ms`, `38 ms`, `4.2 s`, `1m 04s`, `2h 05m`, `3d 04h`; a dash when unknown."""
    if milliseconds is None:
        return "–"
    if 0 < milliseconds < 0.5:
        return "<1 ms"
    if milliseconds < 1000:
        return f"{max(0, round(milliseconds))} ms"
    seconds = milliseconds / 1000
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m {whole % _MINUTE:02d}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h {whole % _HOUR // _MINUTE:02d}m"
    return f"{whole // _DAY}d {whole % _DAY // _HOUR:02d}h"


def elapsed(start: datetime | None, end: datetime | None, now: datetime) -> float | None:
    """Return the milliseconds from `start` to `end`, or to `now` while there is no end. None before the start."""
    if start is None:
        return None
    return ((end or now) - start) / timedelta(milliseconds=1)


def ago(moment: datetime | None, now: datetime) -> str:
    """Return how long ago `moment` was, coarse on purpose: the exact time stands in the title of the element."""
    if moment is None:
        return "never"
    seconds = int((now - moment).total_seconds())
    if seconds < 10:
        return "just now"
    if seconds < _MINUTE:
        return f"{seconds}s ago"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE}m ago"
    if seconds < _DAY:
        return f"{seconds // _HOUR}h ago"
    if seconds < 30 * _DAY:
        return f"{seconds // _DAY}d ago"
    return moment.astimezone(UTC).strftime("%Y-%m-%d")


def absolute(moment: datetime) -> str:
    """Return the exact time, in UTC and saying so."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def number(value: int) -> str:
    """Return an integer with thin spaces between thousands, so that columns of digits stay readable."""
    return f"{value:,}".replace(",", "\u202f")


def size(size_bytes: int) -> str:
    """Return a size in the binary unit that keeps it between 1 and 1,024."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024 or unit == "GiB":
            break
    return f"{value:.1f} {unit}"


def plural(count: int, noun: str, many: str | None = None) -> str:
    """Return `1 run`, `2 runs`, `3 passed`; `many` where adding an s is wrong."""
    return f"{number(count)} {noun if count == 1 else many or noun + 's'}"
