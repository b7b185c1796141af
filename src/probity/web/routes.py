"""The routes of all pages, area by area, and the files that pages load."""

from typing import Final

from litestar import Response, Router, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Redirect

from probity.kernel.errors import NotFound
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.groups import route_group
from probity.kernel.principal import Principal
from probity.web.agents import routes as agents
from probity.web.keys import routes as keys
from probity.web.pages import PageRequest, Pages
from probity.web.runs import routes as runs
from probity.web.search import routes as search
from probity.web.sign_in import routes as sign_in

# The address names the content, so what it names never changes.
_FOR_EVER: Final = "public, max-age=31536000, immutable"


def routes() -> list[Router]:
    """Return every page of the server."""
    return [
        route_group(Dialect.PAGES, "/", [start, static_file]),
        *sign_in.routes(),
        *runs.routes(),
        *agents.routes(),
        *keys.routes(),
        *search.routes(),
    ]


@get("/", public=True, include_in_schema=False)
async def start(principal: NamedDependency[Principal]) -> Redirect:
    """Send people to their runs, everybody else to the sign-in."""
    return Redirect("/sign-in" if principal.is_anonymous else "/runs", status_code=303)


@get("/static/{name:path}", public=True, include_in_schema=False)
async def static_file(name: FromPath[str], request: PageRequest, pages: NamedDependency[Pages]) -> Response[bytes]:
    """Serve a style sheet, script or picture."""
    asset = pages.assets.find(str(name).strip("/"))
    if asset is None:
        raise NotFound("no such file")
    known = request.query_params.get("v") == asset.version
    headers = {"cache-control": _FOR_EVER if known else "no-cache", "vary": "Accept-Encoding"}
    content = asset.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["content-encoding"] = asset.compressed, "gzip"
    return Response(content, media_type=asset.content_type, headers=headers)
