"""The cookies of a session, in the forms of two contracts. Texts are exact: contract tests and browsers read them.

`Secure` follows the address that the browser used, since a Secure cookie set over plain http would never come back.
"""

from datetime import UTC
from email.utils import format_datetime
from typing import Final

from probity.identity.sessions.models import SignedIn
from probity.kernel.http.csrf import session_cookie_name

UI: Final = "probity_session"
BRIDGE: Final = "sb_session"
SENTRI: Final = "access_token"
SENTRI_EXPIRY: Final = "token_exp"

_EPOCH: Final = "Thu, 01 Jan 1970 00:00:00 GMT"


def bridge(signed_in: SignedIn, *, https: bool) -> list[str]:
    """Source: secrets.md §2.3."""
    return [_opaque(BRIDGE, signed_in, https=https, same_site="Strict")]


def sentri(signed_in: SignedIn, suffix: str) -> list[str]:
    """`suffix` as `csrf.cookie_suffix` makes it. Source: webtest.md §2.3."""
    age, expires = _age(signed_in), int(signed_in.session.expires_at.timestamp())
    return [
        f"{SENTRI}={signed_in.sentri_token.reveal()}; Path=/; HttpOnly; Max-Age={age}{suffix}",
        f"{SENTRI_EXPIRY}={expires}; Path=/; Max-Age={age}{suffix}",
    ]


def clear_ui(*, https: bool) -> list[str]:
    return [_cleared(session_cookie_name(https=https), https=https, same_site="Lax")]


def clear_bridge(*, https: bool) -> list[str]:
    return [_cleared(BRIDGE, https=https, same_site="Strict")]


def clear_sentri(suffix: str) -> list[str]:
    return [f"{SENTRI}=; Path=/; HttpOnly; Max-Age=0{suffix}", f"{SENTRI_EXPIRY}=; Path=/; Max-Age=0{suffix}"]


def _opaque(name: str, signed_in: SignedIn, *, https: bool, same_site: str) -> str:
    expires = format_datetime(signed_in.session.expires_at.astimezone(UTC), usegmt=True)
    secure = "; Secure" if https else ""
    return (
        f"{name}={signed_in.cookie.reveal()}; Path=/; Max-Age={_age(signed_in)}; Expires={expires}; HttpOnly{secure}; SameSite={same_site}"
    )


def _cleared(name: str, *, https: bool, same_site: str) -> str:
    secure = "; Secure" if https else ""
    return f"{name}=; Path=/; Max-Age=-1; Expires={_EPOCH}; HttpOnly{secure}; SameSite={same_site}"


def _age(signed_in: SignedIn) -> int:
    return int((signed_in.session.expires_at - signed_in.session.created_at).total_seconds())
