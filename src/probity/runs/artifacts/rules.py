"""Pure decisions: which names are accepted, and how a file that nobody trusts is handed to a browser."""

import mimetypes
import re
from typing import Final
from urllib.parse import quote

from probity.runs.errors import WrongField

MAX_NAME_CHARS: Final = 500
UNKNOWN: Final = "application/octet-stream"
# No script, no style, no connection, no form, no frame: whatever the file is, opening it cannot act as this server.
POLICY: Final = "sandbox; default-src 'none'"

_CONTENT_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]{1,80}/[a-z0-9!#$&^_.+-]{1,80}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NOT_ASCII_FILE: Final = re.compile(r"[^A-Za-z0-9 !#$&()+,.;=@\[\]^_`{}~-]")
_SHOWN: Final = ("image/", "video/", "text/")
# Documents that a browser runs, sandbox or not, are better looked at from disk.
_NEVER_SHOWN: Final = frozenset({"text/html", "text/xml", "text/javascript", "image/svg+xml"})


def checked_name(text: str) -> str:
    """Return the name of an artifact: a relative path with forward slashes, such as `screens/login.png`.

    Raises:
        WrongField: empty, too long, absolute, with `..`, backslashes or control characters.
    """
    if not 1 <= len(text) <= MAX_NAME_CHARS:
        raise WrongField("name", f"must have 1 to {MAX_NAME_CHARS} characters")
    if _CONTROL.search(text) or "\\" in text:
        raise WrongField("name", "must not contain control characters or backslashes")
    parts = text.split("/")
    if any(part.strip() in ("", ".", "..") for part in parts) or re.match(r"[A-Za-z]:", text):
        raise WrongField("name", "must be a relative path without empty parts, `.` or `..`")
    return text


def content_type_of(declared: str | None, name: str) -> str:
    """Return what the uploader says, without parameters, if it says something sensible and specific; otherwise what the name suggests."""
    said = (declared or "").partition(";")[0].strip().lower()
    if _CONTENT_TYPE.fullmatch(said) and said not in (UNKNOWN, "application/x-www-form-urlencoded"):
        return said
    return mimetypes.guess_type(name, strict=False)[0] or UNKNOWN


def is_shown(content_type: str) -> bool:
    """Say whether a browser may show the file; others are only offered for download."""
    return content_type.startswith(_SHOWN) and content_type not in _NEVER_SHOWN


def disposition(name: str, content_type: str) -> str:
    """Return the Content-Disposition of a download. Source: RFC 6266; the plain form is for old clients and has only safe characters."""
    base = name.rpartition("/")[2]
    plain = _NOT_ASCII_FILE.sub("_", base)
    kind = "inline" if is_shown(content_type) else "attachment"
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(base, safe='')}"


def byte_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """Return the first and last byte of a request for one range; None when the whole file is to be sent. Source: RFC 9110 §14.

    Several ranges, other units and nonsense are ignored, as the RFC allows.

    Raises:
        ValueError: the range lies outside the file (416).
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", (header or "").replace(" ", ""))
    if match is None or match[0] == "bytes=-":
        return None
    if not match[1]:
        first, last = max(0, size_bytes - int(match[2])), size_bytes - 1
    else:
        first, last = int(match[1]), min(int(match[2]) if match[2] else size_bytes - 1, size_bytes - 1)
    if first >= size_bytes or (match[2] == "0" and not match[1]):
        raise ValueError(f"bytes */{size_bytes}")
    return None if last < first else (first, last)
