"""Unknown paths: the root's rules of `collisions.md`, and each contract's own under its pin."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from litestar import get, post

from probity.kernel.errors import Invalid
from probity.kernel.http.auth import Connection
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.groups import route_group
from probity.kernel.principal import CredentialKind, Principal, PrincipalKind
from tests.fakes import FakeClock
from tests.http_app import TestAuthenticator, client_of
from tests.kernel.http.conftest import build_app

USER = Principal(kind=PrincipalKind.USER, actor="user:1", credential=CredentialKind.BEARER_JWT)
AGENT = Principal(kind=PrincipalKind.AGENT, actor="agent:1", credential=CredentialKind.AGENT_SECRET)


@get("/dashboard", public=True)
async def dashboard() -> dict[str, bool]:
    return {"ok": True}


@post("/crawl", public=True, csrf=True)
async def crawl() -> dict[str, bool]:
    return {"ok": True}


@get("/start", public=True)
async def start_page() -> str:
    return "hello"


@pytest_asyncio.fixture
async def small(callers: TestAuthenticator, clock: FakeClock) -> AsyncIterator[httpx.AsyncClient]:
    routes: list[Any] = [route_group(Dialect.SENTRI, "/api/v1", [dashboard, crawl]), route_group(Dialect.PAGES, "/", [start_page])]
    async with client_of(build_app(callers, clock, routes=routes)) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "anonymous", "signed_in"),
    [
        ("/api/v1/nothing", 401, 404),
        ("/api/v1/agents/nothing", 404, 404),
        ("/api/agent/nothing", 401, 401),
        ("/api/executions/nothing", 401, 404),
        ("/api/connections/nothing", 401, 404),
        ("/api/nothing", 401, 404),
        ("/nothing", 404, 404),
    ],
)
async def test_at_the_root(small: httpx.AsyncClient, callers: TestAuthenticator, path: str, anonymous: int, signed_in: int) -> None:
    assert (await small.get(path)).status_code == anonymous
    assert (await small.get(path, headers=callers.headers(USER))).status_code == signed_in


async def test_an_agent_sees_404_below_its_own_prefix(small: httpx.AsyncClient, callers: TestAuthenticator) -> None:
    assert (await small.get("/api/agent/nothing", headers=callers.headers(AGENT))).status_code == 404


async def test_an_unknown_page_is_a_page(small: httpx.AsyncClient) -> None:
    reply = await small.get("/nothing")

    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "There is no page at this address." in reply.text


async def test_the_root_redirects_legacy_paths_that_v1_answers(small: httpx.AsyncClient) -> None:
    found = await small.get("/api/dashboard?x=1")
    unknown = await small.get("/api/nowhere?x=1")

    assert (found.status_code, found.headers["location"]) == (308, "/api/v1/dashboard?x=1")
    assert unknown.status_code == 401


async def test_pinned_sentri_redirects_always_and_stays_pinned(small: httpx.AsyncClient) -> None:
    by_path = await small.get("/compat/sentri/api/nowhere?x=1")
    by_host = await small.get("/api/nowhere?x=1", headers={"Host": "sentri.localhost"})

    assert (by_path.status_code, by_path.headers["location"]) == (308, "/compat/sentri/api/v1/nowhere?x=1")
    assert (by_host.status_code, by_host.headers["location"]) == (308, "/api/v1/nowhere?x=1")
    assert by_host.text == "Permanent Redirect. Redirecting to /api/v1/nowhere?x=1"


async def test_a_redirect_keeps_what_was_encoded_in_the_path_encoded(small: httpx.AsyncClient) -> None:
    reply = await small.get("/compat/sentri/api/a%0D%0Ab%3Fc%23d%20%C3%A9?x=%0A")

    assert (reply.status_code, reply.headers["location"]) == (308, "/compat/sentri/api/v1/a%0D%0Ab%3Fc%23d%20%C3%A9?x=%0A")


async def test_an_authenticator_that_finds_the_path_odd_does_not_answer_for_it(
    small: httpx.AsyncClient, callers: TestAuthenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(request: Connection) -> Principal:
        raise Invalid("invalid agent id")

    monkeypatch.setattr(callers, "authenticate", refuse)
    reply = await small.get("/api/v1/agents/x/y/z")

    assert (reply.status_code, reply.json()) == (404, {"error": "Not Found"})


async def test_pinned_sentri_checks_the_csrf_token_before_it_redirects(small: httpx.AsyncClient) -> None:
    reply = await small.post("/compat/sentri/api/projects", headers={"cookie": "access_token=x"})

    assert (reply.status_code, reply.json()) == (403, {"error": "CSRF token missing or invalid. Please refresh the page."})


@pytest.mark.parametrize(
    ("path", "anonymous", "signed_in"),
    [
        ("/compat/achilles/api/x", (404, {"success": False, "error": "Not Found", "message": "Cannot GET /api/x"}), None),
        ("/compat/suparbase/api/x", (404, {"category": "not_found", "message": "Not found."}), None),
        ("/compat/bridge/api/v1/x", (401, {"error": "authentication required"}), (404, {"error": "Not Found"})),
        ("/compat/bridge/x", (404, {"error": "Not Found"}), None),
        ("/compat/sentri/api/v1/x", (401, {"error": "Authentication required."}), (404, {"error": "not found"})),
        (
            "/compat/agnox/x",
            (
                401,
                {
                    "success": False,
                    "error": "Authentication required",
                    "message": "No API key or Bearer token provided. Use x-api-key header or Authorization: Bearer.",
                },
            ),
            (404, {"message": "Route GET:/x not found", "error": "Not Found", "statusCode": 404}),
        ),
    ],
)
async def test_pinned(
    small: httpx.AsyncClient, callers: TestAuthenticator, path: str, anonymous: tuple[int, Any], signed_in: tuple[int, Any] | None
) -> None:
    first = await small.get(path)
    second = await small.get(path, headers=callers.headers(USER))

    assert (first.status_code, first.json()) == anonymous
    assert (second.status_code, second.json()) == (signed_in or anonymous)


async def test_an_unknown_pin_is_a_page(small: httpx.AsyncClient) -> None:
    assert (await small.get("/compat/nobody/api/v1/x")).status_code == 404


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "POST", "OPTIONS"])
async def test_no_path_answers_405(small: httpx.AsyncClient, callers: TestAuthenticator, method: str) -> None:
    reply = await small.request(method, "/start", headers=callers.headers(USER))

    assert reply.status_code in (204, 404)
