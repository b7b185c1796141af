"""Every route with every role: who holds the permission that a route names comes in, and nobody else does. design.md §5."""

import re

import httpx
import pytest
from litestar import Litestar
from litestar.routes import HTTPRoute

from probity.identity.roles import BUILT_IN, KEY_SCOPES, PERMISSIONS
from probity.kernel.http.groups import Access, RouteRule, all_rules
from probity.kernel.ids import new_id
from probity.kernel.principal import ANONYMOUS, AgentId, CredentialKind, OrgId, Principal, PrincipalKind, UserId
from tests import http_app

HOLDERS: dict[str, frozenset[str]] = {f"role {role}": held for role, held in BUILT_IN.items()} | {
    f"key {scope}": held for scope, held in KEY_SCOPES.items()
}


def routes(app: Litestar) -> list[tuple[str, str, RouteRule]]:
    """Return method, path and rule of every route, with an id that nobody has in the place of each parameter."""
    return [(method, re.sub(r"\{[^}]*\}", str(new_id()), path), rule) for method, path, rule in all_routes(app)]


def routes_with_parameters(app: Litestar) -> list[tuple[str, str, RouteRule]]:
    """Return method, path with `{parameters}`, and rule of the routes that have some."""
    return [route for route in all_routes(app) if "{" in route[1]]


def all_routes(app: Litestar) -> list[tuple[str, str, RouteRule]]:
    rules = all_rules(app)
    found = []
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            handlers = [handler for handler in route.route_handlers if handler in rules]
            found += [(str(method), route.path, rules[handler]) for handler in handlers for method in handler.http_methods]
    return sorted(found, key=lambda item: item[:2])


def holder(org_id: OrgId, permissions: frozenset[str]) -> Principal:
    user_id = UserId(new_id())
    return Principal(
        kind=PrincipalKind.USER,
        actor=f"user:{user_id}",
        org_ids=(org_id,),
        active_org=org_id,
        permissions=permissions,
        credential=CredentialKind.BEARER_JWT,
        user_id=user_id,
    )


def test_every_permission_that_a_route_names_exists(app: Litestar) -> None:
    assert {rule.permission for _, _, rule in routes(app)} - {None} <= PERMISSIONS


async def _status(http: httpx.AsyncClient, method: str, path: str, headers: dict[str, str]) -> int:
    async with http.stream(method, path, headers=headers, content=b"{}" if method in ("POST", "PUT", "PATCH") else b"") as reply:
        return reply.status_code


@pytest.mark.parametrize("name", HOLDERS)
async def test_a_role_opens_the_routes_of_its_permissions_and_no_others(
    app: Litestar, http: httpx.AsyncClient, callers: http_app.TestAuthenticator, org: OrgId, name: str
) -> None:
    headers = callers.headers(holder(org, HOLDERS[name])) | {"content-type": "application/json"}

    wrong = []
    for method, path, rule in routes(app):
        if rule.access is not Access.PERMISSION or method not in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            continue
        status = await _status(http, method, path, headers)
        allowed = rule.permission in HOLDERS[name]
        if (status in (401, 403)) is allowed:
            wrong.append((method, path, rule.permission, status))

    assert not wrong


async def test_without_a_credential_only_public_routes_answer(app: Litestar, http: httpx.AsyncClient) -> None:
    wrong = []
    for method, path, rule in routes(app):
        if rule.access is not Access.PUBLIC and (status := await _status(http, method, path, {})) not in (401, 303):
            wrong.append((method, path, status))

    assert not wrong


async def test_an_agent_opens_no_route_of_people_and_a_person_none_of_agents(
    app: Litestar, http: httpx.AsyncClient, callers: http_app.TestAuthenticator, org: OrgId
) -> None:
    agent_id = AgentId(new_id())
    agent = Principal(
        kind=PrincipalKind.AGENT,
        actor=f"agent:{agent_id}",
        org_ids=(org,),
        active_org=org,
        credential=CredentialKind.AGENT_SECRET,
        agent_id=agent_id,
    )
    as_agent, as_person = callers.headers(agent), callers.headers(holder(org, PERMISSIONS))

    wrong = []
    for method, path, rule in routes(app):
        for_people = rule.access in (Access.PERMISSION, Access.AUTHENTICATED) and not rule.or_agent
        if for_people and (status := await _status(http, method, path, as_agent)) not in (401, 403):
            wrong.append(("agent", method, path, status))
        if rule.access is Access.AGENT and (status := await _status(http, method, path, as_person)) not in (401, 403):
            wrong.append(("person", method, path, status))

    assert not wrong


async def test_ids_that_nobody_has_are_unknown_to_the_strongest_role(
    app: Litestar, http: httpx.AsyncClient, callers: http_app.TestAuthenticator, org: OrgId
) -> None:
    headers = callers.headers(holder(org, PERMISSIONS))

    wrong = []
    for method, path, rule in routes(app):
        if method in ("GET", "DELETE") and rule.access is Access.PERMISSION and re.search(r"[0-9a-f]{8}-", path):
            status = await _status(http, method, path, headers)
            # 400: something that must be in the query is not.
            if status not in (400, 404):
                wrong.append((method, path, status))

    assert not wrong


def test_anonymous_holds_nothing() -> None:
    assert not ANONYMOUS.permissions
