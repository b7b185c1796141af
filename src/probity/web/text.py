"""Text that programs wrote, made fit for a page: escape sequences out, the lines that matter marked. Everything is escaped."""

import re
from typing import Final

from markupsafe import Markup, escape

# CSI, OSC and two-character sequences; the log viewer colours them, a detail does without.
_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-9;:?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[()][A-Z0-9]|.)")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_LOCATION: Final = re.compile(r"^(?:\S+\.\w+:\d+: |  File \")")
_FIRST_LINE_LIMIT: Final = 160


def plain(text: str) -> str:
    """Return `text` without terminal escapes and control characters (tabs and line ends stay)."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n")))


def first_line(text: str) -> str:
    """Return the first line that says something, for one line of a list."""
    for line in plain(text).splitlines():
        if line.strip():
            return line.strip()[:_FIRST_LINE_LIMIT]
    return ""


def traceback(text: str) -> Markup:
    """Return a failure with its error lines (`E   …`, as pytest marks them) and its locations in their own colours."""
    return Markup("\n").join(_line(line) for line in plain(text).rstrip("\n").split("\n"))


def _line(line: str) -> Markup:
    if line.startswith(("E  ", "E\t")) or line == "E":
        return Markup('<span class="e">{}</span>').format(line)
    if _LOCATION.match(line):
        return Markup('<span class="at">{}</span>').format(line)
    return escape(line)
