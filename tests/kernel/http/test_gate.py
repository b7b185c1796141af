import re

import httpx
import pytest

from probity.kernel.errors import Unavailable
from probity.kernel.http.auth import Connection
from probity.kernel.http.dialect import PINNABLE, Dialect
from probity.kernel.http.settings import HttpSettings
from probity.kernel.limits import Algorithm, Policy
from probity.kernel.principal import CredentialKind, Principal, PrincipalKind
from tests.fakes import FakeClock
from tests.http_app import TestAuthenticator, client_of
from tests.kernel.http.conftest import at, build_app

USER = Principal(kind=PrincipalKind.USER, actor="user:1", credential=CredentialKind.BEARER_JWT)


async def test_a_request_id_is_made_when_the_caller_sends_none(small: httpx.AsyncClient) -> None:
    reply = await small.get(at(Dialect.BRIDGE, "/limited"))

    assert re.fullmatch("[0-9a-f]{32}", reply.headers["x-request-id"])


@pytest.mark.parametrize(("sent", "echoed"), [("abc-1", True), ("x" * 128, True), ("x" * 129, False), ("", False), ("a\tb", False)])
async def test_a_request_id_of_up_to_128_characters_is_echoed(small: httpx.AsyncClient, sent: str, echoed: bool) -> None:
    reply = await small.get(at(Dialect.BRIDGE, "/limited"), headers={"X-Request-Id": sent})

    assert (reply.headers["x-request-id"] == sent) is echoed


@pytest.mark.parametrize("dialect", sorted(PINNABLE))
async def test_every_route_is_reachable_under_its_pin_and_by_host_name(small: httpx.AsyncClient, dialect: Dialect) -> None:
    by_path = await small.get(at(dialect, "/limited", pinned=True))
    by_host = await small.get(at(dialect, "/limited"), headers={"Host": f"{dialect}.localhost:8484"})

    assert (by_path.status_code, by_host.status_code) == (200, 200)


async def test_a_host_name_of_the_operators_choice_pins_a_dialect(callers: TestAuthenticator, clock: FakeClock) -> None:
    settings = HttpSettings(compat_hosts={"qa.example": Dialect.SENTRI})
    async with client_of(build_app(callers, clock, settings=settings)) as client:
        mapped = await client.get("/api/v1/nothing", headers={"Host": "QA.example:443"})
        other = await client.get("/api/v1/nothing")

    assert (mapped.json(), other.json()) == ({"error": "Authentication required."}, {"error": "authentication required"})


async def test_a_pin_hides_the_routes_of_other_dialects(small: httpx.AsyncClient) -> None:
    reply = await small.get("/compat/achilles" + at(Dialect.AGNOX, "/limited"))

    assert reply.status_code == 404
    assert reply.json()["message"] == "Cannot GET /api/executions/limited"


async def test_a_known_path_with_an_unknown_method_is_an_unknown_path(small: httpx.AsyncClient) -> None:
    reply = await small.delete(at(Dialect.BRIDGE, "/limited"))

    assert (reply.status_code, reply.json()) == (401, {"error": "authentication required"})


async def test_head_is_get_without_a_body(small: httpx.AsyncClient) -> None:
    reply = await small.head(at(Dialect.BRIDGE, "/limited"))

    assert (reply.status_code, reply.content) == (200, b"")


async def test_a_hot_route_answers_in_front_of_the_router(small: httpx.AsyncClient) -> None:
    reply = await small.post("/api/v1/secrets/hot/a/touch", content=b"12345")

    assert reply.json() == {"hot": "a", "size": 5}
    assert "x-request-id" in reply.headers and reply.headers["x-content-type-options"] == "nosniff"


async def test_a_hot_route_hands_on_what_it_does_not_want_with_the_body(small: httpx.AsyncClient) -> None:
    reply = await small.post("/api/v1/secrets/hot/cold/touch", content=b"12345")

    assert reply.json() == {"cold": "cold", "size": 5}


async def test_a_hot_route_raises_domain_errors_like_a_normal_one(small: httpx.AsyncClient) -> None:
    reply = await small.post("/api/v1/secrets/hot/conflict/touch")

    assert (reply.status_code, reply.json()) == (409, {"error": "this is already so"})


async def test_a_declared_permission_is_required(small: httpx.AsyncClient, callers: TestAuthenticator) -> None:
    anonymous = await small.get(at(Dialect.BRIDGE, "/items"))
    without = await small.get(at(Dialect.BRIDGE, "/items"), headers=callers.headers(USER))
    reader = Principal(kind=PrincipalKind.USER, actor="user:2", permissions=frozenset({"items.read"}))
    allowed = await small.get(at(Dialect.BRIDGE, "/items"), headers=callers.headers(reader))

    assert (anonymous.status_code, without.status_code, allowed.status_code) == (401, 403, 200)
    assert without.json() == {"error": 'missing permission "items.read" (global scope)'}


class Away:
    """Knows nobody, because the database is away."""

    async def authenticate(self, request: Connection) -> Principal:
        raise Unavailable("the database is away")


async def test_public_routes_answer_while_nobody_can_be_known(callers: TestAuthenticator, clock: FakeClock) -> None:
    async with client_of(build_app(Away(), clock)) as client:
        public = await client.get(at(Dialect.BRIDGE, "/limited"))
        protected = await client.get(at(Dialect.BRIDGE, "/items"))
        unknown = await client.get("/api/v1/nothing")

    assert (public.status_code, protected.status_code, unknown.status_code) == (200, 503, 401)


async def test_a_contracts_general_budget_is_spent_by_routes_and_unknown_paths_alike(callers: TestAuthenticator, clock: FakeClock) -> None:
    general = Policy("test:general", limit=3, window_s=60, algorithm=Algorithm.FIXED_WINDOW)
    async with client_of(build_app(callers, clock, tiers={Dialect.SENTRI: (general,)})) as client:
        statuses = [
            (await client.get(path)).status_code
            for path in (
                at(Dialect.SENTRI, "/conflict", pinned=True),
                "/compat/sentri/api/legacy",
                "/compat/sentri/api/v1/nothing",
                "/compat/sentri/api/legacy",
                at(Dialect.BRIDGE, "/conflict"),
            )
        ]

    assert statuses == [409, 308, 401, 429, 409]
