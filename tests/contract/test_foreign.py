"""Another organization's objects are 404 on every route that takes an id, in every spelling, and nothing happens to them."""

import re
from typing import Any
from uuid import UUID

import httpx
import pytest_asyncio
from litestar import Litestar

from probity.kernel.db import Database, execute, fetch_rows
from probity.kernel.http.groups import Access
from probity.kernel.ids import hex24, new_id
from probity.kernel.principal import AgentId, CredentialKind, OrgId, Principal, PrincipalKind
from tests import http_app
from tests.contract.test_roles import routes_with_parameters

# What each parameter's name stands for. A route with a name that is not here fails the test: say what it names.
NAMES = {"key_id": "key", "agent_id": "agent", "token_id": "token", "job_id": "job", "run": "run", "ref": "run", "artifact_id": "artifact"}
# Parameters that name no object of a tenant.
NO_OBJECT = {"name"}
LOG_EVENT = {"id": "e1", "type": "log", "at": "2026-01-01T00:00:00Z", "stream": "stdout", "text": "x"}
BODIES: dict[str, Any] = {
    "/complete": {"status": "succeeded"},
    "/events": {"events": [LOG_EVENT]},
    "/public-key": {"algorithm": "x25519-hkdf-aes-gcm", "public_key": "A" * 43 + "="},
}
# What some pages insist on; the others ignore it.
QUERY = {"case": "x", "key": "x", "until": "1"}
TABLES = ("agents", "api_keys", "enrollment_tokens", "jobs", "runs")


@pytest_asyncio.fixture
async def ours(db: Database, http: httpx.AsyncClient, callers: http_app.TestAuthenticator, org: OrgId, admin: Principal) -> dict[str, str]:
    """One object of each kind in our organization."""
    async with db.system() as tx:
        await execute(tx, "insert into users (id, email, display_name) values (:id, 'ada@x.test', 'Ada')", id=admin.user_id)
        await execute(tx, "insert into memberships (org_id, user_id) values (:org_id, :id)", org_id=org, id=admin.user_id)
    headers = callers.headers(admin)

    async def made(path: str, body: dict[str, Any]) -> Any:
        reply = await http.post(path, json=body, headers=headers)
        assert reply.status_code in (200, 201, 202), reply.text
        return reply.json()

    agent = await made("/api/v1/agents", {"name": "box"})
    return {
        "agent": agent["id"],
        "job": (await made("/api/v1/jobs", {"job_type": "sync", "payload": {}}))["id"],
        "run": (await made("/api/v1/runs", {"name": "nightly"}))["uuid"],
        "token": (await made("/api/v1/enrollment-tokens", {}))["id"],
        "key": (await made("/api/api-keys", {"name": "ci", "scope": "read"}))["data"]["id"],
        "artifact": str(new_id()),
    }


async def snapshot(db: Database) -> dict[str, list[str]]:
    """Return every row of the tables that the routes write to, as text."""
    rows = {}
    async with db.system() as tx:
        for table in TABLES:
            found = await fetch_rows(tx, f"select t::text as row from {table} t order by 1")  # type: ignore[arg-type]
            rows[table] = [row["row"] for row in found]
    return rows


def spelled(value: str, spelling: str) -> str:
    parsed = UUID(value)
    return {"dashed": str(parsed), "hex32": parsed.hex, "hex24": hex24(parsed), "upper": str(parsed).upper()}[spelling]


async def test_foreign_ids_are_404_everywhere_and_nothing_happens(
    app: Litestar, db: Database, http: httpx.AsyncClient, callers: http_app.TestAuthenticator, ours: dict[str, str], outsider: Principal
) -> None:
    foreign_agent = Principal(
        kind=PrincipalKind.AGENT,
        actor="agent:x",
        org_ids=outsider.org_ids,
        active_org=outsider.active_org,
        credential=CredentialKind.AGENT_SECRET,
        agent_id=AgentId(new_id()),
    )
    person, agent = callers.headers(outsider), callers.headers(foreign_agent)
    before = await snapshot(db)

    wrong = []
    for method, template, rule in routes_with_parameters(app):
        parameters = re.findall(r"\{(\w+)(?::\w+)?\}", template)
        if set(parameters) <= NO_OBJECT:
            continue
        body = next((body for ending, body in BODIES.items() if template.endswith(ending)), {})
        for spelling in ("dashed", "hex32", "hex24", "upper"):
            path = template
            for parameter in parameters:
                path = re.sub(rf"\{{{parameter}(:\w+)?\}}", spelled(ours[NAMES[parameter]], spelling), path)
            headers = agent if rule.access is Access.AGENT else person
            reply = await http.request(
                method, path, headers=headers, params=QUERY, json=body if method in ("POST", "PUT", "PATCH") else None
            )
            # An agent's routes know their caller by the id in the path, so a foreign one is a wrong credential.
            expected = (401, 403, 404) if rule.access is Access.AGENT else (404,)
            if reply.status_code not in expected:
                wrong.append((method, path, reply.status_code, reply.text[:200]))

    assert not wrong, "\n".join(map(str, wrong))
    assert await snapshot(db) == before
