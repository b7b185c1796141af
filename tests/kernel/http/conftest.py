"""A small application of routes in every dialect, without a database."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from litestar import Litestar, Request, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody
from litestar.types import ControllerRouterHandler

from probity.kernel.errors import Conflict, Unavailable
from probity.kernel.http.application import Running, assemble
from probity.kernel.http.auth import Authenticator, Authenticators, Connection
from probity.kernel.http.dialect import PINNABLE, Dialect
from probity.kernel.http.groups import route_group
from probity.kernel.http.hot import HotReply, HotRequest, HotRoute
from probity.kernel.http.settings import HttpSettings
from probity.kernel.http.shutdown import Shutdown
from probity.kernel.limits import LocalLimiter, Policy
from probity.kernel.principal import Principal
from probity.kernel.telemetry import Metrics
from tests.fakes import FakeClock
from tests.http_app import TestAuthenticator, client_of

THREE_A_MINUTE = Policy("test:three", limit=3, window_s=60)


class Item(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=10)]
    size: Annotated[int, msgspec.Meta(ge=1, le=100)]
    tags: list[str] = []


class OwnItem(Item, forbid_unknown_fields=True):
    pass


@post("/items", authenticated=True)
async def create_item(data: JSONBody[Item], principal: NamedDependency[Principal]) -> dict[str, Any]:
    return {"name": data.name, "size": data.size, "actor": principal.actor}


@post("/own-items", public=True)
async def create_own_item(data: JSONBody[OwnItem]) -> dict[str, str]:
    return {"name": data.name}


@get("/items", permission="items.read")
async def list_items(limit: FromQuery[int] = 50) -> list[int]:
    return [limit]


@get("/conflict", public=True)
async def conflict() -> None:
    raise Conflict("this is already so")


@get("/away", public=True)
async def away() -> None:
    raise Unavailable("the database password is hunter2")


@get("/bug", public=True)
async def bug() -> None:
    raise RuntimeError("the password is hunter2")


@get("/limited", public=True, limits=(THREE_A_MINUTE,))
async def limited() -> dict[str, bool]:
    return {"ok": True}


@post("/upload", public=True, body_limit=1000)
async def upload(request: Request[Any, Any, Any]) -> dict[str, int]:
    return {"size": len(await request.body())}


HANDLERS = [create_item, create_own_item, list_items, conflict, away, bug, limited, upload]
BASES = {
    Dialect.ACHILLES: "/api/browser",
    Dialect.AGNOX: "/api/executions",
    Dialect.SUPARBASE: "/api/account",
    Dialect.BRIDGE: "/api/v1/secrets",
    Dialect.SENTRI: "/api/v1/tests",
    Dialect.OWN: "/api/v1/own",
}


async def hot_item(request: HotRequest) -> HotReply | None:
    if request.params[0] == "cold":
        return None
    if request.params[0] == "conflict":
        raise Conflict("this is already so")
    return HotReply(200, b'{"hot":"%s","size":%d}' % (request.params[0].encode(), len(request.body)))


@post("/hot/{item_id:str}/touch", public=True, status_code=200)
async def touch(item_id: FromPath[str], request: Request[Any, Any, Any]) -> dict[str, Any]:
    return {"cold": item_id, "size": len(await request.body())}


HOT = HotRoute("POST", "/api/v1/secrets/hot/{id}/touch", hot_item, (Dialect.BRIDGE,), body_limit=1000)


def build_app(
    callers: Authenticator,
    clock: FakeClock,
    *,
    settings: HttpSettings | None = None,
    routes: Sequence[ControllerRouterHandler] = (),
    shutdown: Shutdown | None = None,
    tiers: Mapping[Dialect, Sequence[Policy]] | None = None,
) -> Litestar:
    @asynccontextmanager
    async def start() -> AsyncIterator[Running]:
        yield Running({}, Authenticators([callers]), LocalLimiter(clock), (HOT,))

    groups = [route_group(dialect, base, HANDLERS) for dialect, base in BASES.items()]
    return assemble(
        routes=[*groups, route_group(Dialect.BRIDGE, "/api/v1/secrets", [touch]), *routes],
        service_names=[],
        start=start,
        settings=settings or HttpSettings(),
        clock=clock,
        metrics=Metrics(),
        shutdown=shutdown or Shutdown(),
        tiers=tiers,
    )


class _WhoeverIsAsked:
    """Passes the question on to the test that runs now: the application is built once, the callers are each test's own."""

    def __init__(self) -> None:
        self.now: Authenticator = TestAuthenticator()

    async def authenticate(self, request: Connection) -> Principal:
        return await self.now.authenticate(request)


@pytest.fixture(scope="session")
def small_app() -> tuple[Litestar, _WhoeverIsAsked]:
    """The small application; each start of it counts its limits from zero."""
    asked = _WhoeverIsAsked()
    return build_app(asked, FakeClock()), asked


@pytest_asyncio.fixture
async def small(small_app: tuple[Litestar, _WhoeverIsAsked], callers: TestAuthenticator) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the small application."""
    app, asked = small_app
    asked.now = callers
    async with client_of(app) as client:
        yield client


def at(dialect: Dialect, path: str, *, pinned: bool = False) -> str:
    """Return the address of one of the small application's routes in a dialect."""
    assert not pinned or dialect in PINNABLE
    return (f"/compat/{dialect}" if pinned else "") + BASES[dialect] + path
