"""Cross-origin reads: only where a contract has them, only for origins that the operator lists."""

from typing import Final

from probity.kernel.http.asgi import Scope
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.exchange import Exchange
from probity.kernel.http.render import WireReply
from probity.kernel.http.settings import HttpSettings

# Secrets Bridge and Suparbase send no CORS headers at all.
_SPEAKS: Final = frozenset({Dialect.AGNOX, Dialect.SENTRI, Dialect.ACHILLES, Dialect.OWN})
_METHODS: Final = b"GET, HEAD, PUT, PATCH, POST, DELETE, OPTIONS"
_EXPOSED: Final = {
    Dialect.SENTRI: b"X-CSRF-Token",
    Dialect.ACHILLES: b"Authorization, Content-Disposition",
}


def headers(scope: Scope, exchange: Exchange, settings: HttpSettings) -> list[tuple[bytes, bytes]]:
    """Return the headers that let a listed origin read this reply; none for others, which are served all the same."""
    if not settings.cors_origins or exchange.dialect not in _SPEAKS:
        return []
    origin = _header(scope, b"origin")
    if origin is None or origin.decode("latin-1") not in settings.cors_origins:
        return [(b"vary", b"Origin")]
    allowed = [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-credentials", b"true"),
        (b"vary", b"Origin"),
    ]
    if exchange.dialect in _EXPOSED:
        allowed.append((b"access-control-expose-headers", _EXPOSED[exchange.dialect]))
    return allowed


def preflight(scope: Scope, exchange: Exchange, settings: HttpSettings) -> WireReply | None:
    """Answer a browser's question about a cross-origin request; None when this is not one that we answer."""
    if scope["method"] != "OPTIONS" or _header(scope, b"access-control-request-method") is None:
        return None
    if not headers(scope, exchange, settings):
        return None
    asked = _header(scope, b"access-control-request-headers")
    return WireReply(
        204,
        b"",
        headers=(
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-max-age", b"600"),
            *(((b"access-control-allow-headers", asked),) if asked else ()),
        ),
    )


def _header(scope: Scope, wanted: bytes) -> bytes | None:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    return next((value for name, value in headers if name == wanted), None)
