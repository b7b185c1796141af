"""One reply a page: shell, template, headers. Also the page for every error, wherever it happened."""

from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import msgspec
from litestar import Request, Response
from litestar.datastructures import Cookie

from probity.kernel.clock import Clock
from probity.kernel.errors import Unauthenticated
from probity.kernel.http.asgi import Scope
from probity.kernel.http.exchange import exchange_of
from probity.kernel.http.render import Case, WireReply
from probity.kernel.principal import Principal
from probity.web.assets import Assets
from probity.web.render import Renderer
from probity.web.shell import THEME_COOKIE, shell_for, theme_of

PageRequest = Request[Any, Any, Any]

_HTML: Final = "text/html"
# A page shows what one person may see, now.
_HEADERS: Final = {"cache-control": "private, no-store", "vary": "Cookie"}


class Problem(msgspec.Struct, frozen=True):
    """What an error page says: what happened, why, and where to go."""

    status: int
    title: str
    text: str
    action: str
    href: str
    request_id: str


class Pages:
    def __init__(self, clock: Clock) -> None:
        self.assets = Assets()
        self._renderer = Renderer(self.assets, clock)

    def page(
        self,
        request: PageRequest,
        principal: Principal,
        template: str,
        *,
        title: str,
        active: str = "",
        status: int = 200,
        cookies: tuple[Cookie, ...] = (),
        **context: Any,
    ) -> Response[str]:
        """Return a whole page; `active` is the entry of the rail that it belongs to."""
        shell = shell_for(principal, title=title, active=active, theme=theme_of(request.cookies))
        html = self._renderer.html(template, shell, context)
        return Response(html, media_type=_HTML, status_code=status, headers=_HEADERS, cookies=list(cookies))

    def fragment(self, template: str, **context: Any) -> Response[str]:
        """Return a part of a page, for a script that asked for it."""
        return Response(self._renderer.html(template, None, context), media_type=_HTML, headers=_HEADERS)

    def failure(self, scope: Scope, case: Case) -> WireReply:
        """Return the page for a failed request. Whoever is not signed in is sent to sign in, and back afterwards."""
        if isinstance(case.error, Unauthenticated) and case.method == "GET":
            query = scope["query_string"].decode("latin-1")
            wanted = quote(case.path + (f"?{query}" if query else ""), safe="")
            return WireReply(303, b"", headers=((b"location", f"/sign-in?next={wanted}".encode()), (b"cache-control", b"no-store")))
        principal = exchange_of(scope).principal
        shell = shell_for(principal, title=HTTPStatus(case.status).phrase, active="", theme=theme_of(_cookies(scope)))
        html = self._renderer.html("errors/error.html", shell, {"error": problem_of(case)})
        return WireReply(case.status, html.encode(), b"text/html; charset=utf-8")


def problem_of(case: Case) -> Problem:
    """Return the words for a failed request. Nothing of a bug's own text reaches the page."""
    action, href = "Go to the runs", "/runs"
    match case.status:
        case 401:
            title, text, action, href = "You are signed out", "Sign in again; what you sent was not saved.", "Sign in", "/sign-in"
        case 403:
            title, text = "You may not do this", f"{_sentence(case.message)} An administrator of your organization can change your role."
        case 404:
            title, text = (
                "Nothing is here",
                "There is no such page, or it belongs to another organization. Check the address or search for it.",
            )
        case 429:
            title, text, href, action = "Too many requests", "Wait a moment, then try again.", case.path, "Try again"
        case 503:
            title, text, href, action = (
                "Not available right now",
                f"{_sentence(case.message)} Nothing was lost; try again.",
                case.path,
                "Try again",
            )
        case status if status >= 500:
            title, text = (
                "Something broke here",
                "It is not your fault. The server has logged it under the request below; nothing was half done.",
            )
        case _:
            title, text = "That did not work", _sentence(case.message)
    return Problem(status=case.status, title=title, text=text, action=action, href=href, request_id=case.request_id)


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?")) else f"{text}."


def _cookies(scope: Scope) -> dict[str, str]:
    """Return the theme cookie: an error page needs no other."""
    for name, value in scope["headers"]:
        if name == b"cookie":
            for part in value.decode("latin-1").split(";"):
                key, _, chosen = part.strip().partition("=")
                if key == THEME_COOKIE:
                    return {key: chosen}
    return {}
