"""What the gate knows of one request, kept in its scope."""

from collections.abc import Iterable, MutableMapping
from typing import Any, Final, cast
from uuid import UUID

from litestar.connection import ASGIConnection

from probity.kernel.http import csrf
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.render import PageRenderer
from probity.kernel.principal import ANONYMOUS, Principal

_KEY: Final = "probity"


class Exchange:
    """One request and its reply. Made by the gate, read by authenticators, handlers, error renderers and logs."""

    __slots__ = (
        "client_ip",
        "dialect",
        "headers",
        "host",
        "nonce",
        "page",
        "pin",
        "pinned_by_path",
        "principal",
        "request_id",
        "scheme",
        "serves_other_site",
    )

    def __init__(self, *, request_id: str, client_ip: str, scheme: str, host: str, pin: Dialect | None, dialect: Dialect) -> None:
        self.request_id = request_id
        self.client_ip = client_ip
        self.scheme = scheme
        self.host = host
        self.pin = pin
        self.dialect = dialect
        self.principal: Principal = ANONYMOUS
        self.headers: list[tuple[bytes, bytes]] = []
        self.nonce: str | None = None
        # Draws this request's error page; None where the server has no pages.
        self.page: PageRenderer | None = None
        self.pinned_by_path = False
        # Sentri's front end may live on another site; its cookies then travel across.
        self.serves_other_site = False


def bind(scope: MutableMapping[str, Any], exchange: Exchange) -> None:
    scope[_KEY] = exchange


def exchange_of(scope: Any) -> Exchange:
    """Return the exchange of a scope that passed the gate."""
    return cast("Exchange", scope[_KEY])


def request_id(request: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Return the id that the reply carries in `X-Request-Id`: the caller's own (1-128 characters) or 32 hex digits."""
    return exchange_of(request.scope).request_id


def client_ip(request: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Return the caller's address; forwarded headers count only when the peer is a trusted proxy."""
    return exchange_of(request.scope).client_ip


def pinned_dialect(request: ASGIConnection[Any, Any, Any, Any]) -> Dialect | None:
    """Return the dialect that the caller pinned by base path or host name; None at the root."""
    return exchange_of(request.scope).pin


def choose_dialect(request: ASGIConnection[Any, Any, Any, Any], dialect: Dialect) -> Dialect:
    """Choose the dialect of this reply on a path that two contracts share. A pin cannot be overruled; returns what is in force."""
    exchange = exchange_of(request.scope)
    if exchange.pin is None:
        exchange.dialect = dialect
    return exchange.dialect


def origin_of(request: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Return scheme and host that the caller used (`https://probity.example`)."""
    exchange = exchange_of(request.scope)
    return f"{exchange.scheme}://{exchange.host}"


def is_https(request: ASGIConnection[Any, Any, Any, Any]) -> bool:
    """Return whether the caller came by https, as far as a trusted proxy can tell."""
    return exchange_of(request.scope).scheme in ("https", "wss")


def cookie_suffix(request: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Return how the cookies of Sentri's dialect end in the reply to `request`."""
    return csrf.cookie_suffix(https=is_https(request), cross_site=exchange_of(request.scope).serves_other_site)


def set_cookies(request: ASGIConnection[Any, Any, Any, Any], lines: Iterable[str]) -> None:
    """Let the reply to `request` carry these `Set-Cookie` lines, exactly as they stand."""
    exchange_of(request.scope).headers.extend((b"set-cookie", line.encode("latin-1")) for line in lines)


def correlation_id(request: ASGIConnection[Any, Any, Any, Any]) -> UUID | None:
    """Return the request id as a UUID when it is one (ours always are), for columns that hold UUIDs."""
    try:
        return UUID(request_id(request))
    except ValueError:
        return None
