"""Paths that no route answers. A known path with a method it lacks is one of them: never 405.

Root: under `/api/v1` anonymous 401, else 404; under `/api/agent` 401 without device credentials; elsewhere under `/api` a redirect when
`/api/v1/…` answers, else 401 or 404; pages get a page. Pinned: as each contract says.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final
from urllib.parse import quote

from probity.kernel.errors import Unauthenticated
from probity.kernel.http.asgi import Scope
from probity.kernel.http.dialect import Dialect, dialect_of_path
from probity.kernel.http.exchange import Exchange
from probity.kernel.http.failures import UnknownPath
from probity.kernel.http.render import Case, WireReply, render
from probity.kernel.principal import PrincipalKind

# RFC 3986 §3.3.
_PLAIN_IN_PATHS: Final = "/:@!$&'()*+,;=~"

Exists = Callable[[str, str], bool]

# Routes that Secrets Bridge leaves outside its gate; unknown paths among them are plain 404s.
_BRIDGE_OPEN: Final = ("/api/v1/agents/", "/api/v1/auth/login", "/api/v1/auth/logout", "/api/v1/auth/oidc/")


def answer(scope: Scope, exchange: Exchange, exists: Exists, now: datetime) -> WireReply:
    path, method = scope["path"], scope["method"]
    if exchange.pin is None:
        exchange.dialect = dialect_of_path(path)
    if (target := _redirect(path, method, exchange, exists)) is not None:
        query = scope["query_string"].decode("latin-1")
        # The path arrived decoded; what was encoded in it (a line break, a question mark) must not take effect in the header.
        location = quote(target, safe=_PLAIN_IN_PATHS) + (f"?{query}" if query else "")
        body = f"Permanent Redirect. Redirecting to {location}".encode()
        return WireReply(308, body, b"text/plain; charset=utf-8", ((b"location", location.encode()),))
    error = Unauthenticated("authentication required") if _wants_sign_in(path, exchange) else UnknownPath(method, path)
    case = Case(
        error=error,
        dialect=exchange.dialect,
        request_id=exchange.request_id,
        method=method,
        path=path,
        now=now,
    )
    return render(case, exchange.page)


def _redirect(path: str, method: str, exchange: Exchange, exists: Exists) -> str | None:
    """Sentri's legacy paths: `/api/X` → `/api/v1/X`. Pinned always; at the root only where that answers and no contract has the path."""
    if not path.startswith("/api/") or path.startswith(("/api/v1/", "/api/docs")) or path == "/api/v1":
        return None
    target = "/api/v1" + path.removeprefix("/api")
    if exchange.pin is Dialect.SENTRI:
        return f"/compat/sentri{target}" if exchange.pinned_by_path else target
    if exchange.pin is None and exists(method, target):
        return target
    return None


def _wants_sign_in(path: str, exchange: Exchange) -> bool:
    match exchange.pin:
        case Dialect.ACHILLES | Dialect.SUPARBASE:
            return False
        case Dialect.AGNOX:
            return exchange.principal.is_anonymous
        case Dialect.BRIDGE | Dialect.SENTRI:
            return path.startswith("/api/v1") and exchange.principal.is_anonymous and not _is_bridge_open(path, exchange)
        case _:
            pass
    if path == "/api/agent" or path.startswith("/api/agent/"):
        return exchange.principal.kind is not PrincipalKind.AGENT
    return path.startswith("/api/") and exchange.principal.is_anonymous and not _is_bridge_open(path, exchange)


def _is_bridge_open(path: str, exchange: Exchange) -> bool:
    return exchange.pin is not Dialect.SENTRI and path.startswith(_BRIDGE_OPEN)
