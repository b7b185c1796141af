"""Where a sign-in may lead, and whose form it may come from. Pure."""

from typing import Final
from urllib.parse import urlsplit

HOME: Final = "/runs"
_MAX_PATH: Final = 2000


def safe_next(text: str) -> str:
    """Return the path to go to after the sign-in: one of this site, else the home page.

    Browsers read `//host`, `/\\host` and paths with control characters as other sites, so only what is plainly a path passes.
    """
    if not text.startswith("/") or len(text) > _MAX_PATH or not text.isprintable() or "\\" in text or text.startswith("//"):
        return HOME
    parts = urlsplit(text)
    if parts.scheme or parts.netloc or parts.path.startswith(("//", "/sign-in", "/sign-out", "/api/", "/static/")):
        return HOME
    return text


def is_own_form(*, fetch_site: str | None, origin: str | None, own_origin: str) -> bool:
    """Say whether a form was sent by one of our own pages.

    Without a session there is no cookie that other checks look at, yet another site's form could sign a visitor in to an account of its
    own. Browsers name the sender in one of the two headers; what names none is no browser form and is refused too.
    """
    if fetch_site is not None:
        return fetch_site in ("same-origin", "none")
    return origin is not None and origin.lower() == own_origin.lower()
