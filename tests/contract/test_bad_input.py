"""Bad input on every route of the whole application: the right kind of status, the dialect's shape, no traceback, nothing written."""

from typing import Any

import httpx
import pytest
from litestar import Litestar

from probity.kernel.db import Database, fetch_rows
from probity.kernel.http.dialect import PINNABLE, Dialect
from probity.kernel.http.groups import Access
from probity.kernel.principal import AgentId, CredentialKind, OrgId, Principal, PrincipalKind
from tests.contract.test_access import Call, calls, described
from tests.http_app import TestAuthenticator
from tests.kernel.http.test_bad_input import is_shaped
from tests.people import make_member

JSON = {"content-type": "application/json"}
BUSINESS = (
    "agents",
    "api_keys",
    "artifacts",
    "enrollment_tokens",
    "memberships",
    "projects",
    "results",
    "run_events",
    "runs",
    "sessions",
    "users",
)
NONSENSE: dict[str, Any] = {
    name: {"not": ["what", "is", "wanted"]}
    for name in (
        "name",
        "scope",
        "command",
        "events",
        "status",
        "public_key",
        "job_type",
        "payload",
        "email",
        "max_uses",
        "enrollment_token",
        "tags",
    )
}
INPUTS: list[tuple[str, bytes]] = [
    ("malformed JSON", b'{"name": '),
    ("another type", b"[1, 2, 3]"),
    ("not UTF-8", b'{"name": "\xff"}'),
    ("too deep", b"[" * 20_000),
]


async def snapshot(db: Database) -> dict[str, list[str]]:
    """Return every row of the tables that routes write to, as text."""
    found = {}
    async with db.system() as tx:
        for table in BUSINESS:
            rows = await fetch_rows(tx, f"select t::text as row from {table} t order by 1")
            found[table] = [row["row"] for row in rows]
    return found


def writes(app: Litestar) -> list[Call]:
    return [call for call in calls(app) if call.method != "GET" and call.rule.dialect is not Dialect.PAGES]


@pytest.fixture
def agent(org: OrgId) -> Principal:
    return Principal(
        kind=PrincipalKind.AGENT,
        actor=f"agent:{org}",
        org_ids=(org,),
        active_org=org,
        credential=CredentialKind.AGENT_SECRET,
        agent_id=AgentId(org),
    )


@pytest.mark.parametrize("pinned", [False, True], ids=["root", "pinned"])
async def test_bodies_that_no_route_wants_change_nothing(
    app: Litestar, db: Database, http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal, agent: Principal, pinned: bool
) -> None:
    await make_member(db, admin)
    before = await snapshot(db)
    wrong = []
    for call in writes(app):
        if pinned and call.rule.dialect not in PINNABLE:
            continue
        base = f"/compat/{call.rule.dialect}" if pinned else ""
        caller = callers.headers(agent if call.rule.access is Access.AGENT else admin)
        for name, body in INPUTS:
            reply = await http.request(call.method, base + call.address(), content=body, headers=JSON | caller)
            # Routes without a body, or that look for the thing first, answer otherwise; none of them does anything.
            if (
                reply.status_code >= 500
                or "Traceback" in reply.text
                or (reply.status_code >= 400 and not is_shaped(call.rule.dialect, reply))
            ):
                wrong.append(f"{name}: {described(call, reply)}")
        limit = call.rule.body_limit_under(call.rule.dialect if pinned else None)
        large = await http.request(call.method, base + call.address(), content=b" " * (limit + 1), headers=JSON | caller)
        if large.status_code != 413 or not is_shaped(call.rule.dialect, large):
            wrong.append(f"too large: {described(call, large)}")

    assert not wrong, "\n".join(wrong)
    assert await snapshot(db) == before


async def test_fields_of_the_wrong_type_are_named_and_change_nothing(
    app: Litestar, db: Database, http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal, agent: Principal
) -> None:
    await make_member(db, admin)
    before = await snapshot(db)
    wrong = []
    for call in writes(app):
        caller = callers.headers(agent if call.rule.access is Access.AGENT else admin)
        reply = await http.request(call.method, call.address(), json=NONSENSE, headers=caller)
        if (
            reply.status_code >= 500
            or reply.status_code in (200, 201)
            or (reply.status_code >= 400 and not is_shaped(call.rule.dialect, reply))
        ):
            wrong.append(described(call, reply))

    assert not wrong, "\n".join(wrong)
    assert await snapshot(db) == before


async def test_writes_without_the_right_to_change_nothing(
    app: Litestar, db: Database, http: httpx.AsyncClient, callers: TestAuthenticator, org: OrgId
) -> None:
    nobody_special = Principal(
        kind=PrincipalKind.USER, actor="user:x", org_ids=(org,), active_org=org, credential=CredentialKind.BEARER_JWT
    )
    before = await snapshot(db)
    for call in writes(app):
        for headers in ({}, callers.headers(nobody_special)):
            await http.request(call.method, call.address(), json={"name": "x", "scope": "read"}, headers=headers)

    assert await snapshot(db) == before
