"""The agent routes of the secrets contract (scenarios 7, 8, 9, 10) and our enrolment tokens, on the whole application."""

import asyncio
import re
from dataclasses import replace

import httpx
import pytest
import pytest_asyncio

from probity import main
from probity.config import Config
from probity.kernel.db import Database
from probity.kernel.ids import new_id
from probity.kernel.principal import Principal
from tests.fleet.conftest import trail
from tests.http_app import TestAuthenticator, client_of

KEY = "B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9/AsrhtHHw="
NANOS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
HEARTBEAT_TWICE = [None, {"status": "active", "agent_version": "1.0"}]


@pytest.fixture
def as_admin(callers: TestAuthenticator, admin: Principal) -> dict[str, str]:
    return callers.headers(admin)


@pytest.fixture
def as_outsider(callers: TestAuthenticator, outsider: Principal) -> dict[str, str]:
    return callers.headers(outsider)


async def mint(http: httpx.AsyncClient, headers: dict[str, str], name: str = "runner-1", **fields: object) -> tuple[str, dict[str, str]]:
    """Return the path of a new agent and the header with its secret."""
    reply = await http.post("/api/v1/agents", headers=headers, json={"name": name, **fields})
    assert reply.status_code == 201, reply.text
    minted = reply.json()
    assert list(minted) == ["id", "name", "agent_secret"]
    return f"/api/v1/agents/{minted['id']}", {"X-Agent-Secret": minted["agent_secret"]}


async def test_a_minted_agent_is_listed_without_its_secret(
    http: httpx.AsyncClient, as_admin: dict[str, str], as_outsider: dict[str, str]
) -> None:
    _, secret = await mint(http, as_admin, scope={"cluster": "a"}, public_key=KEY)
    await mint(http, as_admin, "runner-2")

    reply = await http.get("/api/v1/agents", headers=as_admin)

    first, second = reply.json()
    assert secret["X-Agent-Secret"] not in reply.text
    assert (first["name"], first["status"], first["scope"]) == ("runner-1", "active", {"cluster": "a"})
    assert NANOS.fullmatch(first["created_at"])
    assert "last_seen_at" not in first and "scope" not in second
    assert (await http.get("/api/v1/agents", headers=as_outsider)).json() == []


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "invalid JSON body"),
        (b"{", 400, "invalid JSON body"),
        (b"[]", 400, "invalid JSON body"),
        (b"{}", 400, "name is required"),
        (b'{"name":"  "}', 400, "name is required"),
        (b'{"name":"x","public_key":"*"}', 400, "public_key is not valid base64: "),
        (b'{"name":"x","public_key":"AAAA"}', 400, "public_key must be 32 bytes, not 3"),
        (b'{"name":"taken"}', 409, "an agent with this name exists"),
    ],
)
async def test_minting_refuses_bad_input(http: httpx.AsyncClient, as_admin: dict[str, str], body: bytes, status: int, error: str) -> None:
    await mint(http, as_admin, "taken")

    reply = await http.post("/api/v1/agents", headers=as_admin, content=body)

    assert reply.status_code == status
    assert reply.json()["error"].startswith(error)


async def test_direct_minting_can_be_turned_off(db: Database, config: Config, callers: TestAuthenticator, admin: Principal) -> None:
    app = main.build(replace(config, fleet=replace(config.fleet, allow_direct_mint=False)), authenticators=[callers])
    async with client_of(app) as http:
        reply = await http.post("/api/v1/agents", headers=callers.headers(admin), content=b"{")

    assert (reply.status_code, reply.json()["error"]) == (403, "direct_agent_mint_disabled")
    assert set(reply.json()) == {"error", "message"}


@pytest.mark.parametrize("body", HEARTBEAT_TWICE)
async def test_agent_authentication_has_one_answer_for_every_reason(
    http: httpx.AsyncClient, as_admin: dict[str, str], db: Database, body: dict[str, str] | None
) -> None:
    path, secret = await mint(http, as_admin)

    async def beat(path: str, headers: dict[str, str]) -> tuple[int, str]:
        reply = await http.post(f"{path}/heartbeat", headers=headers, json=body)
        return reply.status_code, reply.json()["error"]

    assert await beat(path, {}) == (401, "X-Agent-Secret header required")
    assert await beat("/api/v1/agents/nonsense", secret) == (400, "invalid agent id")
    assert await beat(path, {"X-Agent-Secret": "x" * 43}) == (401, "agent auth rejected")
    assert await beat(f"/api/v1/agents/{new_id()}", secret) == (401, "agent auth rejected")
    assert (await http.post(f"{path}/revoke", headers=as_admin)).status_code == 204
    assert await beat(path, secret) == (401, "agent auth rejected")
    reasons = [metadata["reason"] for action, _, _, metadata in await trail(db) if action == "agent.auth.rejected"]
    assert reasons == ["bad_secret", "unknown_agent", "revoked"]


async def test_heartbeats_come_in_two_forms(http: httpx.AsyncClient, as_admin: dict[str, str]) -> None:
    path, secret = await mint(http, as_admin)

    empty = await http.post(f"{path}/heartbeat", headers=secret)
    full = await http.post(f"{path}/heartbeat", headers=secret, json={"status": "active", "agent_version": "2", "cluster_name": 7})
    wrong = await http.post(f"{path}/heartbeat", headers=secret, content=b"{")
    unauthenticated = await http.post(f"{path}/heartbeat", headers={"X-Agent-Secret": "x"}, content=b"{")

    assert (empty.status_code, empty.content) == (204, b"")
    assert list(full.json()) == ["status", "server_time", "next_heartbeat_seconds"]
    assert NANOS.fullmatch(full.json()["server_time"])
    assert full.json()["next_heartbeat_seconds"] == 30
    assert (wrong.status_code, wrong.json()["error"]) == (400, "invalid JSON body")
    assert unauthenticated.status_code == 401
    (agent,) = (await http.get("/api/v1/agents", headers=as_admin)).json()
    assert agent["agent_version"] == "2"
    assert NANOS.fullmatch(agent["last_seen_at"])


async def test_the_seventh_heartbeat_in_a_minute_is_429_with_retry_after(http: httpx.AsyncClient, as_admin: dict[str, str]) -> None:
    path, secret = await mint(http, as_admin)
    for _ in range(6):
        assert (await http.post(f"{path}/heartbeat", headers=secret)).status_code == 204

    reply = await http.post(f"{path}/heartbeat", headers=secret)

    assert (reply.status_code, reply.json()["error"]) == (429, "rate limit exceeded")
    assert 1 <= int(reply.headers["retry-after"]) <= 60


async def test_the_public_key_is_set_by_the_agent(http: httpx.AsyncClient, as_admin: dict[str, str], db: Database) -> None:
    path, secret = await mint(http, as_admin)

    async def put(body: object, headers: dict[str, str]) -> tuple[int, str | None]:
        reply = await http.put(f"{path}/public-key", headers=headers, json=body)
        return reply.status_code, reply.json()["error"] if reply.content else None

    assert await put({"public_key": KEY}, secret) == (204, None)
    assert (await trail(db))[-1][3] == {"algorithm": "x25519", "public_key_sha": "qqj_9wO1CyI"}
    assert await put({}, secret) == (400, "public_key is required")
    assert (await put({"public_key": "?"}, secret))[1].startswith("public_key is not valid base64: ")  # type: ignore[union-attr]
    assert await put({"public_key": KEY, "public_key_algorithm": "rsa"}, secret) == (400, "public_key_algorithm must be x25519")
    assert await put({"public_key": KEY}, {}) == (401, "X-Agent-Secret header required")
    assert (await put({"public_key": KEY}, as_admin))[0] == 401


async def test_revoking_answers_as_documented(http: httpx.AsyncClient, as_admin: dict[str, str], as_outsider: dict[str, str]) -> None:
    path, secret = await mint(http, as_admin)

    async def revoke(path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, str | None]:
        reply = await http.post(f"{path}/revoke", headers=headers, content=body)
        return reply.status_code, reply.json()["error"] if reply.content else None

    assert await revoke(path, {}) == (401, "authentication required")
    assert (await revoke(path, secret))[0] == 401
    assert await revoke(path, as_outsider) == (404, "agent not found")
    assert await revoke("/api/v1/agents/nonsense", as_admin) == (400, "invalid id")
    assert await revoke(path, as_admin, b"not json") == (204, None)
    assert await revoke(path, as_admin, b'{"reason":"again"}') == (204, None)


@pytest_asyncio.fixture
async def token(http: httpx.AsyncClient, as_admin: dict[str, str]) -> str:
    reply = await http.post("/api/v1/enrollment-tokens", headers=as_admin, json={"name": "lab", "max_uses": 2})
    assert reply.status_code == 201
    assert list(reply.json()) == ["id", "enrollment_token", "expires_at"]
    return str(reply.json()["enrollment_token"])


async def test_a_machine_enrols_and_is_an_agent(http: httpx.AsyncClient, as_admin: dict[str, str], token: str) -> None:
    body = {"enrollment_token": token, "agent_name": "box", "capabilities": ["command"], "hostname": "box", "unknown": 1}

    reply = await http.post("/api/v1/agents/enroll", json=body)

    enrolled = reply.json()
    assert reply.status_code == 201
    assert {name: enrolled[name] for name in enrolled if name not in ("agent_id", "agent_token")} == {
        "provider_connection_id": None,
        "heartbeat_interval_seconds": 30,
        "job_poll_interval_seconds": 5,
    }
    beat = await http.post(f"/api/v1/agents/{enrolled['agent_id']}/heartbeat", headers={"X-Agent-Secret": enrolled["agent_token"]})
    assert beat.status_code == 204
    (agent,) = (await http.get("/api/v1/agents", headers=as_admin)).json()
    assert (agent["status"], agent["capabilities"], agent["hostname"]) == ("active", ["command"], "box")


async def test_refused_machines_hear_a_code(http: httpx.AsyncClient, as_admin: dict[str, str], token: str) -> None:
    async def enrol(**body: object) -> tuple[int, str]:
        reply = await http.post("/api/v1/agents/enroll", json=body)
        return reply.status_code, reply.json()["error"]

    assert await enrol(agent_name="x") == (401, "enrollment_token_invalid")
    assert await enrol(enrollment_token=token) == (400, "agent_name_required")
    assert await enrol(enrollment_token="nonsense", agent_name="x") == (401, "enrollment_token_invalid")
    for name in ("one", "two"):
        assert (await http.post("/api/v1/agents/enroll", json={"enrollment_token": token, "agent_name": name})).status_code == 201
    assert await enrol(enrollment_token=token, agent_name="three") == (409, "enrollment_token_already_consumed")
    reply = await http.post("/api/v1/agents/enroll", content=b"{")
    assert (reply.status_code, reply.json()["error"]) == (400, "invalid JSON body")


async def test_tokens_are_listed_in_pages_and_revoked(
    http: httpx.AsyncClient, as_admin: dict[str, str], as_outsider: dict[str, str]
) -> None:
    made = [(await http.post("/api/v1/enrollment-tokens", headers=as_admin, json={})).json() for _ in range(3)]

    first = (await http.get("/api/v1/enrollment-tokens?limit=2", headers=as_admin)).json()
    second = (await http.get(f"/api/v1/enrollment-tokens?limit=2&cursor={first['next_cursor']}", headers=as_admin)).json()

    assert [row["id"] for row in first["data"] + second["data"]] == [row["id"] for row in reversed(made)]
    assert second["next_cursor"] is None
    assert made[0]["enrollment_token"] not in str(first) + str(second)
    path = f"/api/v1/enrollment-tokens/{made[0]['id']}"
    assert (await http.delete(path, headers=as_outsider)).status_code == 404
    assert (await http.delete(path, headers=as_admin)).status_code == 204
    assert (await http.delete(path, headers=as_admin)).status_code == 404
    reply = await http.post("/api/v1/enrollment-tokens", headers=as_admin, json={"max_uses": 0, "expires_in_seconds": 1, "nonsense": 1})
    assert reply.status_code == 400
    assert {field["path"] for field in reply.json()["errors"]} == {"max_uses", "expires_in_seconds", "nonsense"}


async def test_many_machines_race_for_the_last_use(http: httpx.AsyncClient, token: str) -> None:
    bodies = [{"enrollment_token": token, "agent_name": f"box-{n}"} for n in range(6)]

    replies = await asyncio.gather(*(http.post("/api/v1/agents/enroll", json=body) for body in bodies))

    assert sorted(reply.status_code for reply in replies) == [201, 201, 409, 409, 409, 409]
