"""Decisions about people and passwords, without reading or writing."""

import re
import unicodedata
from datetime import datetime, timedelta
from typing import Final

from probity.identity.errors import InvalidEmail, WeakPassword

LOCKOUT_THRESHOLD: Final = 5
LOCKOUT: Final = timedelta(minutes=15)
PASSWORD_LEAST: Final = 8
PASSWORD_MOST: Final = 128

_EMAIL: Final = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]{2,}")
# Checked without their decoration, so that `Password123!` is as common as `password`.
_COMMON: Final = frozenset(
    [
        "password",
        "passwort",
        "passw0rd",
        "qwerty",
        "qwertyuiop",
        "letmein",
        "welcome",
        "admin",
        "administrator",
        "iloveyou",
        "monkey",
        "dragon",
        "football",
        "baseball",
        "sunshine",
        "princess",
        "master",
        "shadow",
        "trustno",
        "changeme",
        "secret",
        "abcdefgh",
        "probity",
    ]
)


def normal_email(text: str) -> str:
    """Return an e-mail address as it is stored and compared: trimmed, lower-case, at most 254 characters.

    Raises:
        InvalidEmail: it does not look like one.
    """
    email = text.strip()[:254].lower()
    if "\x00" in email or not _EMAIL.fullmatch(email):
        raise InvalidEmail
    return email


def check_password(password: str) -> None:
    """Pass when a new password is good enough. Order and texts are those of webtest.md §2.7; only how "common" is judged is stricter.

    Raises:
        WeakPassword: says what is missing.
    """
    _check_length(password)
    for pattern, what in (
        ("[A-Z]", "uppercase letter"),
        ("[a-z]", "lowercase letter"),
        ("[0-9]", "digit"),
        ("[^A-Za-z0-9]", "special character"),
    ):
        if not re.search(pattern, password):
            raise WeakPassword(f"Password must contain at least one {what}.")
    _check_common(password)


def check_operators_password(password: str) -> None:
    """Pass when a password that whoever runs the server sets is good enough; Secrets Bridge asks nothing of those, so kinds of characters
    are theirs to choose.

    Raises:
        WeakPassword: says what is missing.
    """
    _check_length(password)
    _check_common(password)


def _check_length(password: str) -> None:
    if len(password) < PASSWORD_LEAST:
        raise WeakPassword("Password must be at least 8 characters.")
    if len(password) > PASSWORD_MOST:
        raise WeakPassword("Password is too long.")


def _check_common(password: str) -> None:
    if re.sub(r"[^a-z]", "", password.lower()) in _COMMON:
        raise WeakPassword("This password is too common. Please choose a stronger one.")


def failures_after(count: int, now: datetime) -> tuple[int, datetime | None]:
    """Return the failure count after one more wrong password, and until when the account is locked (None: it is not).

    The count is cleared only by a successful sign-in, so one wrong password after a lock has run out locks again. Source: secrets.md §2.5.
    """
    count += 1
    return count, now + LOCKOUT if count >= LOCKOUT_THRESHOLD else None


def slug_of(name: str) -> str:
    """Return a name as it may stand in an address: a-z, 0-9 and single dashes, at most 50 characters."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:50].strip("-") or "x"
