"""Security headers of every reply, per dialect."""

import secrets
from typing import Final

from probity.kernel.http.dialect import Dialect

_NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
_DENY: Final = (b"x-frame-options", b"DENY")
_REFERRER: Final = (b"referrer-policy", b"strict-origin-when-cross-origin")
_PERMISSIONS: Final = (b"permissions-policy", b"camera=(), microphone=(), geolocation=()")
_COMMON: Final = (_NOSNIFF, _DENY, _REFERRER)

_CSP: Final[dict[Dialect, str]] = {
    Dialect.ACHILLES: "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: https: blob:; "
    "connect-src 'self'; frame-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'; "
    "worker-src 'self' blob:",
    Dialect.AGNOX: "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'",
    Dialect.SUPARBASE: "default-src 'self'; connect-src 'self' https://*.supabase.co https://*.supabase.in; img-src 'self' data: blob: "
    "https://avatars.githubusercontent.com; style-src 'self' 'unsafe-inline'; font-src 'self' data:; script-src 'self' 'nonce-{nonce}' "
    "'strict-dynamic'; frame-ancestors 'none'; base-uri 'self'; form-action 'self' https://github.com",
    Dialect.BRIDGE: "default-src 'none'; frame-ancestors 'none'",
    Dialect.SENTRI: "default-src 'self'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self' data:; frame-src 'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'",
    Dialect.OWN: "default-src 'none'; frame-ancestors 'none'",
    # Scripts and styles are files of ours: nothing inline, so no nonce either.
    Dialect.PAGES: "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self'; "
    "connect-src 'self'; font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
}

_HSTS: Final = {
    Dialect.SUPARBASE: (b"strict-transport-security", b"max-age=63072000; includeSubDomains; preload"),
    Dialect.AGNOX: (b"strict-transport-security", b"max-age=31536000; includeSubDomains; preload"),
}
_OWN_HSTS: Final = (b"strict-transport-security", b"max-age=31536000")


def _fixed(dialect: Dialect, https: bool) -> tuple[tuple[bytes, bytes], ...]:
    headers = list(_COMMON)
    if dialect in (Dialect.SUPARBASE, Dialect.PAGES):
        headers.append(_PERMISSIONS)
    if https:
        headers.append(_HSTS.get(dialect, _OWN_HSTS))
    return tuple(headers)


_FIXED: Final = {(dialect, https): _fixed(dialect, https) for dialect in Dialect for https in (False, True)}


def needs_nonce(dialect: Dialect) -> bool:
    return "{nonce}" in _CSP[dialect]


def new_nonce() -> str:
    """Return 16 random bytes, base64url: one per reply, for `<script nonce=…>`."""
    return secrets.token_urlsafe(16)


def security_headers(dialect: Dialect, *, https: bool, nonce: str | None) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that every reply of a dialect carries, errors included. A handler's own header of the same name wins."""
    if nonce is None:
        return _WITHOUT_NONCE[dialect, https]
    return (*_FIXED[dialect, https], (b"content-security-policy", _policy(dialect, https).replace("{nonce}", nonce).encode()))


def _policy(dialect: Dialect, https: bool) -> str:
    upgrades = https and dialect in (Dialect.SENTRI, Dialect.ACHILLES, Dialect.PAGES)
    return _CSP[dialect] + ("; upgrade-insecure-requests" if upgrades else "")


_WITHOUT_NONCE: Final = {
    (dialect, https): (*headers, (b"content-security-policy", _policy(dialect, https).encode()))
    for (dialect, https), headers in _FIXED.items()
}
