"""Everything that callers get wrong, in every dialect, at the root and pinned: status, shape, nothing of our insides."""

from typing import Any

import httpx
import pytest

from probity.kernel.http.dialect import PINNABLE, Dialect
from probity.kernel.http.groups import route_group
from probity.kernel.principal import CredentialKind, Principal, PrincipalKind
from tests.fakes import FakeClock
from tests.http_app import TestAuthenticator, client_of
from tests.kernel.http.conftest import at, build_app, create_own_item

USER = Principal(kind=PrincipalKind.USER, actor="user:1", credential=CredentialKind.BEARER_JWT)
WHERE = [
    (dialect, pinned)
    for dialect in Dialect
    if dialect is not Dialect.PAGES
    for pinned in (False, True)
    if not pinned or dialect in PINNABLE
]
where = pytest.mark.parametrize(("dialect", "pinned"), WHERE, ids=[f"{d}{'-pinned' if p else ''}" for d, p in WHERE])
TWO_WRONG = {"name": "", "size": "many", "tags": [1]}
JSON = {"content-type": "application/json"}


def is_shaped(dialect: Dialect, reply: httpx.Response) -> bool:
    """Whether the body has the keys that clients of a dialect look for."""
    body: dict[str, Any] = reply.json()
    match dialect:
        case Dialect.ACHILLES:
            return body["success"] is False and isinstance(body["error"], str)
        case Dialect.AGNOX:
            return (body.get("success") is False and isinstance(body["error"], str)) or body["statusCode"] == reply.status_code
        case Dialect.SUPARBASE:
            return isinstance(body["category"], str) and isinstance(body["message"], str)
        case Dialect.BRIDGE | Dialect.SENTRI:
            return isinstance(body["error"], str)
        case _:
            return body["status"] == reply.status_code and body["detail"] == body["error"]


@where
async def test_malformed_json_is_400(small: httpx.AsyncClient, callers: TestAuthenticator, dialect: Dialect, pinned: bool) -> None:
    reply = await small.post(at(dialect, "/items", pinned=pinned), content=b'{"name": ', headers=JSON | callers.headers(USER))

    assert reply.status_code == 400
    assert is_shaped(dialect, reply)


@where
async def test_an_empty_body_is_400(small: httpx.AsyncClient, callers: TestAuthenticator, dialect: Dialect, pinned: bool) -> None:
    reply = await small.post(at(dialect, "/items", pinned=pinned), headers=JSON | callers.headers(USER))

    assert reply.status_code == 400
    assert is_shaped(dialect, reply)


@where
async def test_every_wrong_field_is_named(small: httpx.AsyncClient, callers: TestAuthenticator, dialect: Dialect, pinned: bool) -> None:
    reply = await small.post(at(dialect, "/items", pinned=pinned), json=TWO_WRONG, headers=callers.headers(USER))

    assert reply.status_code == 400
    assert is_shaped(dialect, reply)
    assert all(name in reply.text for name in ("name", "size", "tags"))


@where
async def test_a_body_that_is_no_object_is_said_to_be_none(
    small: httpx.AsyncClient, callers: TestAuthenticator, dialect: Dialect, pinned: bool
) -> None:
    reply = await small.post(at(dialect, "/items", pinned=pinned), json=[], headers=callers.headers(USER))

    assert reply.status_code == 400
    assert is_shaped(dialect, reply)
    assert '": ' not in reply.text.replace('": "', "")


@where
async def test_numbers_in_quotes_are_not_numbers(
    small: httpx.AsyncClient, callers: TestAuthenticator, dialect: Dialect, pinned: bool
) -> None:
    reply = await small.post(at(dialect, "/items", pinned=pinned), json={"name": "a", "size": "5"}, headers=callers.headers(USER))

    assert reply.status_code == 400


@where
async def test_a_missing_credential_is_401(small: httpx.AsyncClient, dialect: Dialect, pinned: bool) -> None:
    reply = await small.post(at(dialect, "/items", pinned=pinned), json={"name": "a", "size": 5})

    assert reply.status_code == 401
    assert is_shaped(dialect, reply)


@where
async def test_a_missing_permission_is_403(small: httpx.AsyncClient, callers: TestAuthenticator, dialect: Dialect, pinned: bool) -> None:
    reply = await small.get(at(dialect, "/items", pinned=pinned), headers=callers.headers(USER))

    assert reply.status_code == 403
    assert is_shaped(dialect, reply)


@where
async def test_20_megabytes_are_413_before_they_are_read(small: httpx.AsyncClient, dialect: Dialect, pinned: bool) -> None:
    reply = await small.post(at(dialect, "/own-items", pinned=pinned), content=b" " * 20_000_000, headers=JSON)

    assert reply.status_code == 413
    assert is_shaped(dialect, reply)


@pytest.mark.parametrize(("prefix", "status"), [("", 400), ("/compat/bridge", 400), ("/compat/sentri", 413)])
async def test_a_shared_route_takes_as_much_as_the_contract_of_the_pin(
    callers: TestAuthenticator, clock: FakeClock, prefix: str, status: int
) -> None:
    shared = route_group(Dialect.BRIDGE, "/api/v1/shared", [create_own_item], also=[Dialect.SENTRI])
    async with client_of(build_app(callers, clock, routes=[shared])) as client:
        reply = await client.post(f"{prefix}/api/v1/shared/own-items", content=b" " * 2_000_000, headers=JSON)

    assert reply.status_code == status


@where
async def test_a_body_of_undeclared_length_is_cut_at_the_limit(small: httpx.AsyncClient, dialect: Dialect, pinned: bool) -> None:
    async def endless() -> Any:
        for _ in range(20):
            yield b"x" * 100

    reply = await small.post(at(dialect, "/upload", pinned=pinned), content=endless())

    assert reply.status_code == 413
    assert is_shaped(dialect, reply)


@where
async def test_a_conflict_has_its_text(small: httpx.AsyncClient, dialect: Dialect, pinned: bool) -> None:
    reply = await small.get(at(dialect, "/conflict", pinned=pinned))

    assert reply.status_code == 409
    assert is_shaped(dialect, reply)
    assert "this is already so" in reply.text


@where
async def test_a_bug_is_500_with_a_request_id_and_nothing_else(small: httpx.AsyncClient, dialect: Dialect, pinned: bool) -> None:
    reply = await small.get(at(dialect, "/bug", pinned=pinned))

    assert reply.status_code == 500
    assert is_shaped(dialect, reply)
    assert reply.headers["x-request-id"] in reply.text
    assert "hunter2" not in reply.text and "Traceback" not in reply.text


async def test_the_bridge_hides_the_text_of_every_5xx(small: httpx.AsyncClient) -> None:
    reply = await small.get(at(Dialect.BRIDGE, "/away"))

    assert reply.status_code == 503
    assert reply.json() == {"error": "internal server error", "correlation_id": reply.headers["x-request-id"]}


@where
async def test_over_the_limit_is_429_with_retry_after(small: httpx.AsyncClient, dialect: Dialect, pinned: bool) -> None:
    path = at(dialect, "/limited", pinned=pinned)
    counted = [await small.get(path) for _ in range(3)]
    refused = await small.get(path)

    assert [reply.status_code for reply in counted] == [200, 200, 200]
    assert refused.status_code == 429
    assert is_shaped(dialect, refused)
    assert 1 <= int(refused.headers["retry-after"]) <= 60


@pytest.mark.parametrize(
    ("dialect", "names"),
    [
        (Dialect.ACHILLES, {"ratelimit-policy", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"}),
        (Dialect.AGNOX, {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}),
        (Dialect.SUPARBASE, set()),
        (Dialect.BRIDGE, set()),
        (Dialect.SENTRI, {"ratelimit-policy", "ratelimit"}),
        (Dialect.OWN, {"ratelimit-policy", "ratelimit"}),
    ],
)
async def test_limit_headers_are_the_documented_ones(small: httpx.AsyncClient, dialect: Dialect, names: set[str]) -> None:
    reply = await small.get(at(dialect, "/limited"))

    assert {name for name in reply.headers if "ratelimit" in name} == names


async def test_a_429_of_agnox_has_its_documented_body(small: httpx.AsyncClient) -> None:
    for _ in range(3):
        await small.get(at(Dialect.AGNOX, "/limited"))

    body = (await small.get(at(Dialect.AGNOX, "/limited"))).json()

    assert (body["success"], body["error"], body["limit"], body["window"], body["retryAfter"]) == (False, "Too Many Requests", 3, 60000, 60)


@pytest.mark.parametrize("media_type", ["text/html", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize(
    ("dialect", "status"),
    [
        (Dialect.AGNOX, 415),
        (Dialect.OWN, 415),
        (Dialect.ACHILLES, 400),
        (Dialect.BRIDGE, 201),
        (Dialect.SENTRI, 201),
        (Dialect.SUPARBASE, 201),
    ],
)
async def test_another_content_type_is_treated_as_each_contract_says(
    small: httpx.AsyncClient, callers: TestAuthenticator, dialect: Dialect, status: int, media_type: str
) -> None:
    headers = {"content-type": media_type} | callers.headers(USER)

    reply = await small.post(at(dialect, "/items"), content=b'{"name": "a", "size": 5}', headers=headers)

    assert reply.status_code == status


async def test_unknown_fields_are_ignored_by_contracts_and_refused_by_us(small: httpx.AsyncClient, callers: TestAuthenticator) -> None:
    body = {"name": "a", "size": 5, "colour": "red"}

    contract = await small.post(at(Dialect.SENTRI, "/items"), json=body, headers=callers.headers(USER))
    own = await small.post(at(Dialect.OWN, "/own-items"), json=body)

    assert contract.status_code == 201
    assert own.status_code == 400
    assert own.json()["errors"] == [{"path": "colour", "message": 'Unrecognized key: "colour"'}]


async def test_several_wrong_query_parameters_are_named(small: httpx.AsyncClient, callers: TestAuthenticator) -> None:
    reader = Principal(kind=PrincipalKind.USER, actor="user:2", permissions=frozenset({"items.read"}))

    reply = await small.get(at(Dialect.OWN, "/items"), params={"limit": "x"}, headers=callers.headers(reader))

    assert reply.status_code == 400
    assert reply.json()["errors"][0]["path"] == "limit"


@pytest.mark.parametrize("path", ["/a%00b", "/%ff", "/..%2f..%2fetc", "/" + "x" * 5000, "/api/v1/%00"])
async def test_odd_paths_are_unknown_paths(small: httpx.AsyncClient, path: str) -> None:
    reply = await small.get(path)

    assert reply.status_code in (401, 404)
