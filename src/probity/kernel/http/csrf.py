"""Proof that a write carried by a session cookie was sent by one of our own pages."""

import hmac
import secrets
from collections.abc import Mapping
from typing import Final

from probity.kernel.http.dialect import Dialect
from probity.kernel.http.failures import CsrfRejected

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_COOKIE: Final = "_csrf"
# Every cookie that carries a session in one of the dialects, and our own; with https they have a prefix.
SESSION_COOKIES: Final = frozenset(
    prefix + name
    for name in ("probity_session", "sb_session", "access_token", "authjs.session-token")
    for prefix in ("", "__Secure-", "__Host-")
)


def session_cookie_name(*, https: bool) -> str:
    """Return the name of our own session cookie; on https a prefix binds it to this host."""
    return "__Host-probity_session" if https else "probity_session"


def new_token() -> str:
    return secrets.token_urlsafe(32)


def new_cookie(token: str, suffix: str) -> str:
    """Return the `Set-Cookie` line of a double-submit token, which scripts of our origin may read. Source: webtest.md §2.3."""
    return f"{CSRF_COOKIE}={token}; Path=/{suffix}"


def cookie_suffix(*, https: bool, cross_site: bool) -> str:
    """Return how Sentri's cookies end. Across sites a browser only keeps them when they are Secure. Source: webtest.md §2.3."""
    if cross_site:
        return "; SameSite=None; Secure"
    return "; SameSite=Strict" + ("; Secure" if https else "")


def check_root(cookies: Mapping[str, str], origin: str | None, token: str | None, own_origins: frozenset[str]) -> None:
    """At the root: an `Origin` that is ours, or a token that equals the `_csrf` cookie. Without a session cookie nothing is checked.

    Raises:
        CsrfRejected: neither holds.
    """
    if SESSION_COOKIES.isdisjoint(cookies):
        return
    if origin is not None and origin.lower() in own_origins:
        return
    if _token_matches(cookies, token):
        return
    raise CsrfRejected("a write with a session cookie needs our own Origin or a matching X-CSRF-Token")


def check_pinned(
    pin: Dialect, cookies: Mapping[str, str], origin: str | None, token: str | None, own_origins: frozenset[str], *, has_cookie: bool
) -> None:
    """Under a pin: the contract's own rule, to the letter. Dialects without cookies of their own follow the root's.

    Raises:
        CsrfRejected: the rule does not hold.
    """
    if pin is Dialect.SENTRI:
        if "access_token" in cookies and not _token_matches(cookies, token):
            raise CsrfRejected("CSRF token missing or invalid. Please refresh the page.")
    elif pin is Dialect.SUPARBASE:
        if origin is None:
            if has_cookie:
                raise CsrfRejected("Origin header is required for authenticated writes.")
        elif "://" not in origin:
            raise CsrfRejected("Invalid Origin header.")
        elif origin.lower() not in own_origins:
            raise CsrfRejected("Cross-site request rejected.")
    else:
        check_root(cookies, origin, token, own_origins)


def _token_matches(cookies: Mapping[str, str], token: str | None) -> bool:
    expected = cookies.get(CSRF_COOKIE)
    return bool(expected) and bool(token) and hmac.compare_digest(str(expected).encode(), str(token).encode())
