"""Decisions about projects, without reading or writing."""

import re
import unicodedata
from typing import Final

from probity.projects.errors import ProjectNameInvalid

_NUMBER: Final = re.compile(r"PRJ-([1-9][0-9]{0,17})", re.IGNORECASE)
_LONGEST: Final = 200


def number_of(text: str) -> int | None:
    """Return n of `PRJ-n`, or None when the text is no such number."""
    match = _NUMBER.fullmatch(text.strip())
    return int(match[1]) if match else None


def normal_name(text: str) -> str:
    """Return a name as it is stored: trimmed, one space between words.

    Raises:
        ProjectNameInvalid: empty, too long, or a project number.
    """
    name = " ".join(text.split())
    if not 1 <= len(name) <= _LONGEST or "\x00" in name or number_of(name) is not None:
        raise ProjectNameInvalid
    return name


def slug_of(name: str, number: int) -> str:
    """Return a short name for addresses, unique by its number."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain)[:40].strip("-")
    return f"{words}-{number}" if words else f"project-{number}"
