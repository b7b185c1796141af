"""Keys of programs, in ProjectAchilles' dialect. Source: validation.md §6.10."""

from litestar import Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from probity.identity.keys.errors import KeyNotFound
from probity.identity.keys.models import KeyId
from probity.identity.keys.schemas import Done, KeyOut, ManyKeys, NewKeyBody, NewKeyOut, OneNewKey
from probity.identity.keys.service import KeyService
from probity.kernel.errors import Invalid
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.groups import route_group
from probity.kernel.ids import parse_id
from probity.kernel.principal import Principal


@post("/", status_code=201)
async def create_key(data: JSONBody[NewKeyBody], principal: NamedDependency[Principal], keys: NamedDependency[KeyService]) -> OneNewKey:
    """Make a key; the reply is the only place where it can be read."""
    key, text = await keys.create(principal, data.name, data.scope, expires_at=data.expiry())
    return OneNewKey(success=True, data=NewKeyOut.made(key, text))


@get("/")
async def list_keys(principal: NamedDependency[Principal], keys: NamedDependency[KeyService]) -> ManyKeys:
    """List the organization's keys, newest first, revoked ones too."""
    return ManyKeys(success=True, data=[KeyOut.of(key) for key in await keys.list_keys(principal)])


@delete("/{key_id:str}", status_code=200)
async def revoke_key(key_id: FromPath[str], principal: NamedDependency[Principal], keys: NamedDependency[KeyService]) -> Done:
    """Revoke a key at once."""
    try:
        parsed = parse_id(KeyId, key_id)
    except Invalid:
        raise KeyNotFound from None
    await keys.revoke(principal, parsed)
    return Done(success=True)


def routes() -> list[Router]:
    return [
        route_group(
            Dialect.ACHILLES,
            "/api/api-keys",
            [create_key, list_keys, revoke_key],
            permission="settings:users:manage",
            tags=["API keys"],
        )
    ]
