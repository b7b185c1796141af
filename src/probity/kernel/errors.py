"""The kinds of things that can go wrong, and the HTTP status of each kind.

A domain subclasses a kind and gives it a stable `code`. How an error looks on the wire is decided by the dialect.
"""

from typing import ClassVar, Final

import msgspec


class FieldError(msgspec.Struct, frozen=True):
    """One wrong field: `path` in dotted form (`events.0.id`), and what is wrong with it."""

    path: str
    message: str


class ProbityError(Exception):
    """An error that a client may see.

    Args:
        message: for people; says what to do next.
        fields: every wrong field of the input, when the input is what is wrong.
        details: facts about the case; never secrets.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, /, *, fields: tuple[FieldError, ...] = (), **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields
        self.details = details


class Invalid(ProbityError):
    code = "invalid"


class Unauthenticated(ProbityError):
    code = "unauthenticated"


class PlanLimit(ProbityError):
    code = "plan_limit"


class Denied(ProbityError):
    code = "denied"


class NotFound(ProbityError):
    code = "not_found"


class RequestTimeout(ProbityError):
    """The caller did not finish sending its request in time."""

    code = "request_timeout"


class Conflict(ProbityError):
    code = "conflict"


class Gone(ProbityError):
    code = "gone"


class Precondition(ProbityError):
    code = "precondition_failed"


class TooLarge(ProbityError):
    code = "too_large"


class UnsupportedMedia(ProbityError):
    code = "unsupported_media_type"


class Unprocessable(ProbityError):
    code = "unprocessable"


class TooMany(ProbityError):
    """A limit was reached; `retry_after_s` says when another try makes sense."""

    code = "too_many_requests"

    def __init__(self, message: str, /, *, retry_after_s: int = 1, **details: object) -> None:
        super().__init__(message)
        self.details = details
        self.retry_after_s = max(1, retry_after_s)


class Unsupported(ProbityError):
    code = "unsupported"


class Upstream(ProbityError):
    code = "upstream"


class Unavailable(ProbityError):
    """Cannot be done now and may pass later: the database is away, the disk is full."""

    code = "unavailable"


STATUS: Final[dict[type[ProbityError], int]] = {
    Invalid: 400,
    Unauthenticated: 401,
    PlanLimit: 402,
    Denied: 403,
    NotFound: 404,
    RequestTimeout: 408,
    Conflict: 409,
    Gone: 410,
    Precondition: 412,
    TooLarge: 413,
    UnsupportedMedia: 415,
    Unprocessable: 422,
    TooMany: 429,
    Unsupported: 501,
    Upstream: 502,
    Unavailable: 503,
}


def status_of(error: ProbityError) -> int:
    """Return the HTTP status of an error's kind; an error without a kind is a bug, hence 500."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500
