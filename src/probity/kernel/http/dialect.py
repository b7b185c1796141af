"""The languages that Probity speaks over HTTP, and which of them a path belongs to."""

from enum import StrEnum
from typing import Final


class Dialect(StrEnum):
    """How success, errors, limits and unknown paths look on the wire. The first five are contracts of other products."""

    ACHILLES = "achilles"
    AGNOX = "agnox"
    SUPARBASE = "suparbase"
    BRIDGE = "bridge"
    SENTRI = "sentri"
    OWN = "own"
    PAGES = "pages"


# Each has a pinned base `/compat/<dialect>/…` and a host name `<dialect>.localhost`.
PINNABLE: Final = frozenset({Dialect.ACHILLES, Dialect.AGNOX, Dialect.SUPARBASE, Dialect.BRIDGE, Dialect.SENTRI})

# Only consulted for paths that no route matches; the longest prefix wins. A registered route names its dialect itself.
_PREFIXES: Final[tuple[tuple[str, Dialect], ...]] = tuple(
    sorted(
        (
            ("/api/browser", Dialect.ACHILLES),
            ("/api/analytics", Dialect.ACHILLES),
            ("/api/agent", Dialect.ACHILLES),
            ("/api/tests", Dialect.ACHILLES),
            ("/api/integrations/azure", Dialect.ACHILLES),
            ("/api/integrations/defender", Dialect.ACHILLES),
            ("/api/integrations/alerts", Dialect.ACHILLES),
            ("/api/users", Dialect.ACHILLES),
            ("/api/api-keys", Dialect.ACHILLES),
            ("/api/cli/auth", Dialect.ACHILLES),
            ("/api/risk-acceptances", Dialect.ACHILLES),
            ("/api/capabilities", Dialect.ACHILLES),
            ("/api/auth", Dialect.AGNOX),
            ("/api/organization", Dialect.AGNOX),
            ("/api/invitations", Dialect.AGNOX),
            ("/api/executions", Dialect.AGNOX),
            ("/api/execution-request", Dialect.AGNOX),
            ("/api/ci", Dialect.AGNOX),
            ("/api/ingest", Dialect.AGNOX),
            ("/api/test-cases", Dialect.AGNOX),
            ("/api/test-cycles", Dialect.AGNOX),
            ("/api/ai", Dialect.AGNOX),
            ("/api/schedules", Dialect.AGNOX),
            ("/api/projects", Dialect.AGNOX),
            ("/api/integrations", Dialect.AGNOX),
            ("/api/linear", Dialect.AGNOX),
            ("/api/monday", Dialect.AGNOX),
            ("/api/jira", Dialect.AGNOX),
            ("/api/metrics", Dialect.AGNOX),
            ("/api/webhooks/ci", Dialect.AGNOX),
            ("/socket.io", Dialect.AGNOX),
            ("/api/auth/csrf", Dialect.SUPARBASE),
            ("/api/auth/session", Dialect.SUPARBASE),
            ("/api/auth/providers", Dialect.SUPARBASE),
            ("/api/auth/callback", Dialect.SUPARBASE),
            ("/api/auth/signin", Dialect.SUPARBASE),
            ("/api/auth/signout", Dialect.SUPARBASE),
            ("/api/account", Dialect.SUPARBASE),
            ("/api/billing", Dialect.SUPARBASE),
            ("/api/webhooks", Dialect.SUPARBASE),
            ("/api/health", Dialect.SUPARBASE),
            ("/api/cron", Dialect.SUPARBASE),
            ("/api/v", Dialect.SUPARBASE),
            ("/api/connections", Dialect.SUPARBASE),
            ("/api/notifications", Dialect.SUPARBASE),
            ("/api/public", Dialect.SUPARBASE),
            ("/api/v1", Dialect.BRIDGE),
            ("/api", Dialect.OWN),
        ),
        key=lambda row: -len(row[0]),
    )
)


def dialect_of_path(path: str) -> Dialect:
    """Return whose error shape an unknown path at the root gets."""
    for prefix, dialect in _PREFIXES:
        if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/"):
            return dialect
    return Dialect.PAGES
