import httpx
import pytest

from tests.fakes import FakeClock
from tests.identity.conftest import Household, Person
from tests.identity.test_http_sign_in import bearer, log_in

KEYS = "/api/api-keys"


async def headers_of(web: httpx.AsyncClient, person: Person) -> dict[str, str]:
    return bearer((await log_in(web, person)).json()["token"])


async def test_a_key_is_shown_once_in_the_documented_shape(web: httpx.AsyncClient, ada: Person) -> None:
    headers = await headers_of(web, ada)

    made = await web.post(
        KEYS, json={"name": "ci", "scope": "read-write", "expires_at": "2026-02-01T00:00:00.500Z", "extra": 1}, headers=headers
    )
    listed = await web.get(KEYS, headers=headers)

    assert made.status_code == 201
    data = made.json()["data"]
    key = data.pop("key")
    assert made.json()["success"] is True
    assert data == {
        "id": data["id"],
        "name": "ci",
        "key_prefix": key[:12],
        "scope": "read-write",
        "created_at": "2026-01-01 00:00:00",
        "expires_at": "2026-02-01T00:00:00.500Z",
        "last_used_at": None,
        "revoked_at": None,
    }
    assert listed.json() == {"success": True, "data": [data]}
    assert key not in listed.text


async def test_a_key_signs_its_requests_until_it_is_revoked(web: httpx.AsyncClient, ada: Person, clock: FakeClock) -> None:
    headers = await headers_of(web, ada)
    data = (await web.post(KEYS, json={"name": "ci", "scope": "read"}, headers=headers)).json()["data"]

    # It may not manage keys, which is how we see that it was recognized.
    recognized = await web.get(KEYS, headers=bearer(data["key"]))
    gone = await web.delete(f"{KEYS}/{data['id']}", headers=headers)
    refused = await web.get(KEYS, headers=bearer(data["key"]))
    again = await web.delete(f"{KEYS}/{data['id']}", headers=headers)

    assert (recognized.status_code, recognized.json()) == (403, {"success": False, "error": "Insufficient permissions"})
    assert (gone.status_code, gone.json()) == (200, {"success": True})
    assert (refused.status_code, refused.json()) == (401, {"success": False, "error": "Unauthorized"})
    assert (again.status_code, again.json()) == (404, {"success": False, "error": "API key not found or already revoked"})


async def test_an_address_may_try_60_keys_a_minute(web: httpx.AsyncClient, ada: Person) -> None:
    person = await headers_of(web, ada)

    tried = [await web.get(KEYS, headers=bearer(f"pa_{number:064x}")) for number in range(61)]
    other = await web.get(KEYS, headers=person)

    assert [reply.status_code for reply in tried] == [401] * 60 + [429]
    assert tried[-1].json() == {"success": False, "error": "Too many API key authentication attempts"}
    assert tried[-1].headers["ratelimit-policy"] == "60;w=60"
    assert 1 <= int(tried[-1].headers["retry-after"]) <= 60
    assert other.status_code == 200


@pytest.mark.parametrize(
    "header", [None, "Bearer pa_x", "Bearer pa_" + "0" * 64, "pa_" + "0" * 64, "Bearer ak_" + "0" * 64, "Bearer ", "Basic eDp5"]
)
async def test_every_bad_credential_gets_the_same_401(web: httpx.AsyncClient, header: str | None) -> None:
    reply = await web.get(KEYS, headers={} if header is None else {"authorization": header})

    assert (reply.status_code, reply.json()) == (401, {"success": False, "error": "Unauthorized"})


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ({}, ["name", "scope"]),
        ({"name": "", "scope": "write"}, ["name", "scope"]),
        ({"name": "x" * 101, "scope": "read"}, ["name"]),
        ({"name": "x", "scope": "read", "expires_at": None}, ["expires_at"]),
        ({"name": "x", "scope": "read", "expires_at": "2030-01-01T00:00:00+01:00"}, ["expires_at"]),
        ({"name": "x", "scope": "read", "expires_at": "2030-01-01"}, ["expires_at"]),
        ({"name": "x", "scope": "read", "expires_at": "TomorrowZ"}, ["expires_at"]),
    ],
)
async def test_every_wrong_field_is_named(web: httpx.AsyncClient, ada: Person, body: dict[str, object], paths: list[str]) -> None:
    reply = await web.post(KEYS, json=body, headers=await headers_of(web, ada))

    assert reply.status_code == 400
    assert reply.json()["success"] is False
    assert [detail["path"] for detail in reply.json()["details"]] == paths


@pytest.mark.parametrize("role", ["operator", "analyst", "explorer", "developer", "viewer", "qa_lead", "approver"])
async def test_only_an_admin_manages_keys(web: httpx.AsyncClient, household: Household, role: str) -> None:
    headers = await headers_of(web, await household.person("Pat", role=role))

    for reply in (
        await web.get(KEYS, headers=headers),
        await web.post(KEYS, json={"name": "ci", "scope": "read"}, headers=headers),
        await web.delete(f"{KEYS}/x", headers=headers),
    ):
        assert (reply.status_code, reply.json()) == (403, {"success": False, "error": "Insufficient permissions"})


async def test_a_key_of_another_organization_is_unknown(web: httpx.AsyncClient, household: Household, ada: Person) -> None:
    data = (await web.post(KEYS, json={"name": "ci", "scope": "read"}, headers=await headers_of(web, ada))).json()["data"]
    stranger = await headers_of(web, await household.person("Eve", at="Elsewhere"))

    assert (await web.delete(f"{KEYS}/{data['id']}", headers=stranger)).status_code == 404
    assert (await web.delete(f"{KEYS}/nonsense", headers=stranger)).status_code == 404
    assert (await web.get(KEYS, headers=stranger)).json()["data"] == []


async def test_keys_open_the_root_and_their_own_contract_only(web: httpx.AsyncClient, ada: Person) -> None:
    key = (await web.post(KEYS, json={"name": "ci", "scope": "read"}, headers=await headers_of(web, ada))).json()["data"]["key"]

    assert (await web.get("/compat/achilles" + KEYS, headers=bearer(key))).status_code == 403
    assert (await web.get("/api/v1/nothing", headers=bearer(key))).status_code == 404
    assert (await web.get("/compat/bridge/api/v1/nothing", headers=bearer(key))).status_code == 401
    assert (await web.get("/compat/sentri/api/v1/nothing", headers=bearer(key))).status_code == 401


@pytest.mark.parametrize("name", ["a\\u0000b", "\\ud800", "\\udfff\\ud800", "  ", "\\u202e"])
async def test_no_text_breaks_the_server(web: httpx.AsyncClient, ada: Person, name: str) -> None:
    headers = await headers_of(web, ada) | {"content-type": "application/json"}

    made = await web.post(KEYS, content=f'{{"name":"{name}","scope":"read"}}', headers=headers)
    signed_in = await web.post("/api/v1/auth/login", content=f'{{"email":"{name}@x.test","password":"{name}"}}', headers=headers)

    assert made.status_code in (201, 400)
    assert signed_in.status_code in (400, 401)
