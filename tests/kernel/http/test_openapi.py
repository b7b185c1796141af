"""The document and its page."""

import re

import httpx
import pytest
from litestar import get

from probity.kernel.http.dialect import Dialect
from probity.kernel.http.groups import UndeclaredAccess, route_group
from tests.fakes import FakeClock
from tests.http_app import TestAuthenticator
from tests.kernel.http.conftest import build_app


async def test_every_route_is_documented_with_its_access_and_errors(small: httpx.AsyncClient) -> None:
    document = (await small.get("/openapi.json")).json()

    assert document["openapi"].startswith("3.1")
    create = document["paths"]["/api/v1/own/items"]["post"]
    assert create["x-access"] == "authenticated"
    assert {"400", "401", "403", "404", "413", "429", "503"} <= create["responses"].keys()
    assert create["responses"]["400"]["content"]["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Error_own"}
    assert document["paths"]["/api/v1/own/items"]["get"]["x-access"] == "items.read"
    assert document["paths"]["/api/v1/own/limited"]["get"]["security"] == []


async def test_operation_ids_are_unique(small: httpx.AsyncClient) -> None:
    document = (await small.get("/openapi.json")).json()
    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]

    assert len(ids) == len(set(ids))


async def test_the_page_loads_nothing_from_elsewhere(small: httpx.AsyncClient) -> None:
    reply = await small.get("/docs")

    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "/api/v1/own/items" in reply.text
    assert "<script" not in reply.text
    assert re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", reply.text) == []


def test_a_route_that_does_not_say_who_may_call_it_stops_the_application(callers: TestAuthenticator, clock: FakeClock) -> None:
    @get("/forgotten")
    async def forgotten() -> None: ...

    with pytest.raises(UndeclaredAccess, match="forgotten"):
        build_app(callers, clock, routes=[route_group(Dialect.OWN, "/", [forgotten])])


def test_two_declarations_stop_the_application(callers: TestAuthenticator, clock: FakeClock) -> None:
    @get("/both", public=True, permission="x")
    async def both() -> None: ...

    with pytest.raises(UndeclaredAccess, match="both"):
        build_app(callers, clock, routes=[route_group(Dialect.OWN, "/", [both])])


def test_a_route_outside_a_group_stops_the_application(callers: TestAuthenticator, clock: FakeClock) -> None:
    @get("/loose", public=True)
    async def loose() -> None: ...

    with pytest.raises(UndeclaredAccess, match="no dialect"):
        build_app(callers, clock, routes=[loose])
