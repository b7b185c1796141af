"""The cookie of the pages. `Secure` and the `__Host-` prefix follow the address that the browser used."""

from probity.identity.sessions.models import SignedIn
from probity.kernel.http.csrf import session_cookie_name


def opened(signed_in: SignedIn, *, https: bool) -> str:
    """Return the cookie of a new session. SameSite=Lax, so that a link from a mail or a chat opens the page instead of the sign-in."""
    age_s = int((signed_in.session.expires_at - signed_in.session.created_at).total_seconds())
    return f"{session_cookie_name(https=https)}={signed_in.cookie.reveal()}; Path=/; Max-Age={age_s}{_flags(https=https)}"


def closed(*, https: bool) -> str:
    return f"{session_cookie_name(https=https)}=; Path=/; Max-Age=0{_flags(https=https)}"


def _flags(*, https: bool) -> str:
    return f"; HttpOnly{'; Secure' if https else ''}; SameSite=Lax"
