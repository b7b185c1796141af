"""Pages of keys."""

from datetime import UTC, datetime, timedelta
from typing import Final

from litestar import Response, Router, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Redirect

from probity.identity.keys.models import KeyId, KeyScope
from probity.identity.keys.service import KeyService
from probity.kernel.errors import Invalid, NotFound
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.exchange import origin_of
from probity.kernel.http.groups import route_group
from probity.kernel.ids import parse_id
from probity.kernel.principal import Principal
from probity.web.forms import FormProblem
from probity.web.keys.views import row_of
from probity.web.pages import PageRequest, Pages

_MAX_NAME: Final = 100
_SCOPES: Final = {KeyScope.READ: "Read only", KeyScope.READ_WRITE: "Read and write"}
_LIFETIMES: Final = {"30": "30 days", "90": "90 days", "365": "1 year", "": "No end"}


def routes() -> list[Router]:
    return [route_group(Dialect.PAGES, "/keys", [keys, make_key, revoke_key], permission="settings:users:manage")]


@get("/", include_in_schema=False)
async def keys(
    request: PageRequest,
    principal: NamedDependency[Principal],
    pages: NamedDependency[Pages],
    keys: NamedDependency[KeyService],
) -> Response[str]:
    """Show the keys of the organization, newest first."""
    return await _list(request, principal, pages, keys)


@post("/", status_code=200, include_in_schema=False)
async def make_key(
    request: PageRequest,
    principal: NamedDependency[Principal],
    pages: NamedDependency[Pages],
    keys: NamedDependency[KeyService],
) -> Response[str]:
    """Make a key and show it, this once."""
    form = await request.form()
    name, scope, days = (str(form.get(field, "")).strip() for field in ("name", "scope", "days"))
    wrong = {}
    if not name or len(name) > _MAX_NAME:
        wrong["name"] = f"Give the key a name of at most {_MAX_NAME} characters, so that you know it later."
    if scope not in set(KeyScope):
        wrong["scope"] = "Choose what the key may do."
    if days not in _LIFETIMES:
        wrong["days"] = "Choose how long the key lives."
    if wrong:
        return await _list(request, principal, pages, keys, FormProblem("The key was not made", "", wrong), name)
    expires_at = datetime.now(UTC) + timedelta(days=int(days)) if days else None
    key, text = await keys.create(principal, name, KeyScope(scope), expires_at=expires_at)
    return pages.page(
        request,
        principal,
        "keys/made.html",
        title="New key",
        active="keys",
        name=key.name,
        secret=text.reveal(),
        server=origin_of(request),
    )


@post("/{key_id:str}/revoke", include_in_schema=False)
async def revoke_key(key_id: FromPath[str], principal: NamedDependency[Principal], keys: NamedDependency[KeyService]) -> Redirect:
    """Revoke a key at once; one that is revoked already stays so."""
    try:
        await keys.revoke(principal, parse_id(KeyId, key_id))
    except Invalid as error:
        raise NotFound("no such key") from error
    return Redirect("/keys", status_code=303)


async def _list(
    request: PageRequest, principal: Principal, pages: Pages, keys: KeyService, problem: FormProblem | None = None, name: str = ""
) -> Response[str]:
    now = datetime.now(UTC)
    return pages.page(
        request,
        principal,
        "keys/list.html",
        title="Keys",
        active="keys",
        status=400 if problem else 200,
        rows=[row_of(key, now) for key in await keys.list_keys(principal)],
        scopes=[(scope.value, _SCOPES[scope]) for scope in KeyScope],
        lifetimes=list(_LIFETIMES.items()),
        problem=problem,
        name=name[:_MAX_NAME],
    )
