"""Finds out who sends a request: session cookies, signed tokens and keys of programs.

The order, as the contracts document it (secrets.md §2.1, webtest.md §2.1, validation.md §2.1): session cookies first, then the
`Authorization` header, then `?token=` where an EventSource cannot send a header. The first credential that is present and valid wins; a bad
one falls through silently. A pinned base accepts the credentials of its contract only.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from litestar.connection import ASGIConnection

from probity.identity.keys.service import KEY_PREFIX, KeyService
from probity.identity.sessions import cookies, rules
from probity.identity.sessions.service import SignInService
from probity.identity.sessions.tokens import CredentialForm
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.exchange import pinned_dialect
from probity.kernel.principal import ANONYMOUS, CredentialKind, Principal

Connection = ASGIConnection[Any, Any, Any, Any]

_UI_COOKIES: Final = ("__Host-probity_session", cookies.UI)
_ALL_COOKIES: Final = (*_UI_COOKIES, cookies.BRIDGE, cookies.SENTRI)
_COOKIES: Final[Mapping[Dialect | None, tuple[str, ...]]] = {
    None: _ALL_COOKIES,
    Dialect.BRIDGE: (cookies.BRIDGE,),
    Dialect.SENTRI: (cookies.SENTRI,),
}
# Pins under which a Bearer may be one of our keys or one of our signed tokens; the others have their own kinds.
_KEY_PINS: Final = frozenset({None, Dialect.ACHILLES})
_JWT_PINS: Final = frozenset({None, Dialect.BRIDGE, Dialect.SENTRI})
_BEARER: Final = "Bearer "
# Credentials of other kinds that also come as Bearer; other authenticators know them.
_FOREIGN: Final = ("ak_", "sbp_", "pk_live_")
# Where a browser's EventSource reads from; it cannot send a header.
_STREAMS: Final = re.compile(r"/api/v1/runs/[^/]+/events")


class Presented(NamedTuple):
    """A credential of a session as a request carries it; `cookie` names the cookie."""

    form: CredentialForm
    text: str
    cookie: str | None


class UserAuthenticator:
    def __init__(self, sign_in: SignInService, keys: KeyService) -> None:
        self._sign_in = sign_in
        self._keys = keys

    async def authenticate(self, request: Connection) -> Principal:
        """Return the person or key behind a request, or ANONYMOUS."""
        bearer = _bearer(request)
        if bearer.startswith(KEY_PREFIX) and pinned_dialect(request) in _KEY_PINS:
            # A valid cookie still wins over the key, as it does over a token.
            return await self._of_sessions(session_credentials(request)) or await self._keys.authenticate(bearer)
        return await self._of_sessions(session_credentials(request)) or ANONYMOUS

    async def authenticate_token(self, token: str) -> Principal:
        """Return whose signed token or key this is, or ANONYMOUS; for protocols that carry it outside HTTP headers."""
        if token.startswith(KEY_PREFIX):
            return await self._keys.authenticate(token)
        return await self._of_sessions(iter([Presented(CredentialForm.BRIDGE_JWT, token, None)])) or ANONYMOUS

    async def _of_sessions(self, presented: Iterator[Presented]) -> Principal | None:
        for form, text, cookie in presented:
            live = await self._sign_in.find_session(form, text)
            if live is not None:
                kind = CredentialKind.BEARER_JWT if cookie is None else CredentialKind.SESSION_COOKIE
                return rules.speaker(live, credential=kind, cookie=cookie)
        return None


def session_credentials(request: Connection) -> Iterator[Presented]:
    """Return the session credentials that a request carries, in the order in which they count."""
    pin = pinned_dialect(request)
    for name in _COOKIES.get(pin, _UI_COOKIES):
        if text := request.cookies.get(name):
            yield Presented(CredentialForm.SENTRI_JWT if name == cookies.SENTRI else CredentialForm.COOKIE, text, name)
    if pin in _JWT_PINS:
        bearer = _bearer(request)
        if bearer and not bearer.startswith((KEY_PREFIX, *_FOREIGN)):
            yield Presented(CredentialForm.BRIDGE_JWT, bearer, None)
        if (token := request.query_params.get("token")) and _takes_token_from_query(request, pin):
            yield Presented(CredentialForm.SENTRI_JWT, str(token), None)


def _takes_token_from_query(request: Connection, pin: Dialect | None) -> bool:
    # Addresses end up in logs and histories, so at the root only the streams take one.
    return pin is Dialect.SENTRI or (request.scope.get("method") == "GET" and _STREAMS.fullmatch(request.scope["path"]) is not None)


def _bearer(request: Connection) -> str:
    header = request.headers.get("authorization", "")
    return header.removeprefix(_BEARER) if header.startswith(_BEARER) else ""
