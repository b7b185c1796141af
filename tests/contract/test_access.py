"""Every route, with every role, with nobody, with an agent, and with the ids of another organization."""

import re
from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

import httpx
import pytest
import pytest_asyncio
from litestar import Litestar
from litestar.routes import HTTPRoute

from probity.identity.roles import BUILT_IN, KEY_SCOPES, PERMISSIONS
from probity.kernel.db import Database, execute, fetch_rows
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.groups import Access, RouteRule, all_rules
from probity.kernel.ids import hex24, new_id
from probity.kernel.principal import AgentId, CredentialKind, OrgId, Principal, PrincipalKind
from tests.http_app import TestAuthenticator

# Streams that stay open; the ids in these tests keep them from opening.
NOBODY = "00000000-0000-7000-8000-000000000000"


class Call(NamedTuple):
    method: str
    path: str
    rule: RouteRule

    def address(self, ids: Mapping[str, str] | None = None) -> str:
        """Return the path with its parameters filled in; unnamed ones get an id that nothing has."""
        return re.sub(r"\{(\w+):?\w*\}", lambda match: (ids or {}).get(match[1], NOBODY), self.path)


def calls(app: Litestar) -> list[Call]:
    rules = all_rules(app)
    found = [
        Call(str(method), route.path, rules[handler])
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if handler in rules
        for method in handler.http_methods
    ]
    return sorted(found, key=lambda call: (call.path, call.method))


# Input without which a route answers 400 before it looks for the thing.
QUERY = {"key": "a::b", "case": "a::b", "until": "1", "name": "report.txt"}
BODIES = {"/api/v1/runs/{run:str}/events": b'{"events":[{"id":"1","type":"log","at":"2026-01-01T00:00:00Z","stream":"stdout","text":"x"}]}'}


async def send(http: httpx.AsyncClient, call: Call, headers: Mapping[str, str], ids: Mapping[str, str] | None = None) -> httpx.Response:
    body = None if call.method == "GET" else BODIES.get(call.path, b"{}")
    headers = {"content-type": "application/json", **headers}
    return await http.request(call.method, call.address(ids), content=body, params=QUERY, headers=headers)


# What people and keys may hold.
HOLDERS = {role.value: held for role, held in BUILT_IN.items()} | {f"key {scope}": held for scope, held in KEY_SCOPES.items()}


def holder(org: OrgId, permissions: frozenset[str]) -> Principal:
    return Principal(
        kind=PrincipalKind.USER,
        actor=f"user:{new_id()}",
        org_ids=(org,),
        active_org=org,
        permissions=permissions,
        credential=CredentialKind.BEARER_JWT,
    )


def described(call: Call, reply: httpx.Response) -> str:
    return f"{call.method} {call.path} ({call.rule.permission or call.rule.access}): {reply.status_code} {reply.text[:120]}"


def is_refused(call: Call, reply: httpx.Response) -> bool:
    """Whether nobody is let in: 401, or for pages the way to the sign-in page."""
    return reply.status_code == 401 or (call.rule.dialect is Dialect.PAGES and reply.status_code == 303)


async def test_nobody_is_refused_on_every_route_that_is_not_public(app: Litestar, http: httpx.AsyncClient) -> None:
    wrong = []
    for call in calls(app):
        reply = await send(http, call, {})
        if call.rule.access is not Access.PUBLIC and not is_refused(call, reply):
            wrong.append(described(call, reply))

    assert not wrong, "\n".join(wrong)


def test_every_permission_that_a_route_names_exists(app: Litestar) -> None:
    assert {call.rule.permission for call in calls(app)} - {None} <= PERMISSIONS


@pytest.mark.parametrize("role", HOLDERS)
async def test_a_role_reaches_the_routes_of_its_permissions_and_no_others(
    app: Litestar, http: httpx.AsyncClient, callers: TestAuthenticator, org: OrgId, role: str
) -> None:
    headers = callers.headers(holder(org, HOLDERS[role]))
    wrong = []
    for call in calls(app):
        if call.rule.access not in (Access.PERMISSION, Access.AUTHENTICATED):
            continue
        reply = await send(http, call, headers)
        allowed = call.rule.permission is None or call.rule.permission in HOLDERS[role]
        if (reply.status_code != 403) is not allowed or reply.status_code == 401 or reply.status_code >= 500:
            wrong.append(described(call, reply))

    assert not wrong, "\n".join(wrong)


async def test_an_agent_reaches_no_route_of_people(app: Litestar, http: httpx.AsyncClient, callers: TestAuthenticator, org: OrgId) -> None:
    agent = Principal(
        kind=PrincipalKind.AGENT,
        actor=f"agent:{NOBODY}",
        org_ids=(org,),
        active_org=org,
        permissions=frozenset(),
        credential=CredentialKind.AGENT_SECRET,
        agent_id=AgentId(new_id()),
    )
    wrong = []
    for call in calls(app):
        if call.rule.access in (Access.PERMISSION, Access.AUTHENTICATED) and not call.rule.or_agent:
            reply = await send(http, call, callers.headers(agent))
            if reply.status_code != 403:
                wrong.append(described(call, reply))

    assert not wrong, "\n".join(wrong)


async def test_a_person_reaches_no_route_of_agents(
    app: Litestar, http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal
) -> None:
    wrong = []
    for call in calls(app):
        if call.rule.access is Access.AGENT:
            reply = await send(http, call, callers.headers(admin))
            if reply.status_code != 401:
                wrong.append(described(call, reply))

    assert not wrong, "\n".join(wrong)


@pytest_asyncio.fixture
async def foreign(db: Database, http: httpx.AsyncClient, callers: TestAuthenticator, outsider: Principal) -> dict[str, str]:
    """One thing of each kind in another organization, by the name of the path parameter that would name it."""
    headers = callers.headers(outsider)
    async with db.system() as tx:
        await execute(tx, "insert into users (id, email, display_name) values (:id, 'them@example.test', 'Them')", id=outsider.user_id)
        org_id, user_id = outsider.org_id, outsider.user_id
        await execute(tx, "insert into memberships (org_id, user_id) values (:org_id, :user_id)", org_id=org_id, user_id=user_id)

    async def make(path: str, body: dict[str, object], *keys: str) -> str:
        reply = await http.post(path, json=body, headers=headers)
        assert reply.status_code == 201, reply.text
        value: object = reply.json()
        for key in keys:
            assert isinstance(value, dict)
            value = value[key]
        return str(value)

    run = await make("/api/v1/runs", {"name": "theirs"}, "uuid")
    agent = await make("/api/v1/agents", {"name": "theirs", "scope": {}}, "id")
    artifact = await http.post(f"/api/v1/runs/{run}/artifacts", params={"name": "theirs.txt"}, content=b"theirs", headers=headers)
    assert artifact.status_code == 201, artifact.text
    return {
        "agent_id": agent,
        "job_id": await make("/api/v1/jobs", {"job_type": "discover", "payload": {}}, "id"),
        "token_id": await make("/api/v1/enrollment-tokens", {}, "id"),
        "key_id": await make("/api/api-keys", {"name": "theirs", "scope": "read"}, "data", "id"),
        "run": run,
        "ref": run,
        "artifact": str(artifact.json()["id"]),
    }


async def test_the_ids_of_another_organization_do_not_exist(
    app: Litestar, db: Database, http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal, foreign: dict[str, str]
) -> None:
    headers = callers.headers(admin)
    before = await everything(db)
    wrong = []
    for call in calls(app):
        names = set(re.findall(r"\{(\w+)", call.path))
        if not names or call.rule.access in (Access.PUBLIC, Access.AGENT):
            continue
        assert names <= foreign.keys(), f"{call.path}: make one of another organization in `foreign`"
        theirs = await send(http, call, headers, foreign)
        nobodys = await send(http, call, headers)
        # Neither the status nor a word tells a foreign thing from one that never was.
        if theirs.status_code != 404 or _shape(theirs, foreign) != _shape(nobodys, foreign):
            wrong.append(f"{described(call, theirs)} | never was: {nobodys.status_code} {nobodys.text[:80]}")
        for spelling in (lambda text: UUID(text).hex, lambda text: hex24(UUID(text)), str.upper):
            respelled = await send(http, call, headers, {name: spelling(value) for name, value in foreign.items()})
            if respelled.status_code != 404:
                wrong.append(described(call, respelled))

    assert not wrong, "\n".join(wrong)
    assert await everything(db) == before


async def everything(db: Database) -> dict[str, list[str]]:
    """Return every row of the tables that these routes write to, as text."""
    rows = {}
    async with db.system() as tx:
        for table in ("agents", "api_keys", "enrollment_tokens", "jobs", "runs", "run_events", "artifacts"):
            rows[table] = [row["text"] for row in await fetch_rows(tx, f"select t::text as text from {table} t order by 1")]
    return rows


def _shape(reply: httpx.Response, ids: Mapping[str, str]) -> str:
    """Return a body without ids and request ids, for comparison."""
    text = reply.text
    for value in (*ids.values(), NOBODY, reply.headers["x-request-id"]):
        text = text.replace(value, "<id>")
    return re.sub(r'"nonce-[^"]+"|nonce="[^"]*"|[0-9a-f]{32}', "", text)
