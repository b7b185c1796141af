"""The budgets that a contract gives to everything it serves, with its documented numbers. Each is a setting (`PROBITY_LIMIT_…`).

Secrets Bridge and our own routes have none: one address may hold thousands of agents.
"""

from typing import Final

from probity.kernel.http.dialect import Dialect
from probity.kernel.limits import Algorithm, Per, Policy

_QUARTER_HOUR_S: Final = 900
_READS: Final = ("GET", "HEAD")
_WRITES: Final = ("POST", "PUT", "PATCH", "DELETE")
_SUPARBASE_TEXT: Final = "Too many API requests. Try again shortly."

TIERS: Final[dict[Dialect, tuple[Policy, ...]]] = {
    Dialect.ACHILLES: (
        # Before the other, whose headers a reply then carries.
        Policy(
            "achilles:api-key",
            limit=60,
            window_s=60,
            algorithm=Algorithm.FIXED_WINDOW,
            per=Per.IP,
            message="Too many API key authentication attempts",
            bearer="pa_",
        ),
        Policy(
            "achilles:global",
            limit=1000,
            window_s=_QUARTER_HOUR_S,
            algorithm=Algorithm.FIXED_WINDOW,
            per=Per.USER,
            message="Too many requests, please try again later",
        ),
    ),
    Dialect.AGNOX: (
        Policy(
            "agnox:api",
            limit=100,
            window_s=60,
            algorithm=Algorithm.FIXED_WINDOW,
            per=Per.ORGANIZATION,
            message="API rate limit exceeded. Please try again in a moment.",
        ),
    ),
    Dialect.SUPARBASE: (
        Policy(
            "suparbase:reads",
            limit=300,
            window_s=60,
            algorithm=Algorithm.FIXED_WINDOW,
            per=Per.MEMBER,
            message=_SUPARBASE_TEXT,
            methods=_READS,
        ),
        Policy(
            "suparbase:writes",
            limit=90,
            window_s=60,
            algorithm=Algorithm.FIXED_WINDOW,
            per=Per.MEMBER,
            message=_SUPARBASE_TEXT,
            methods=_WRITES,
        ),
    ),
    Dialect.SENTRI: (
        Policy(
            "sentri:general",
            limit=300,
            window_s=_QUARTER_HOUR_S,
            algorithm=Algorithm.FIXED_WINDOW,
            per=Per.IP,
            message="Too many requests. Please slow down and try again shortly.",
        ),
    ),
}
