"""Text that PostgreSQL cannot hold, and numbers past its types, are the caller's mistake: 400, never 500."""

from typing import Any

import httpx

from probity.kernel.db import Database
from probity.kernel.principal import Principal
from tests.http_app import TestAuthenticator
from tests.people import make_member

NUL = "a\x00b"
SURROGATE = b'"\\ud800"'
HUGE = 10**30
POSTS: list[tuple[str, dict[str, Any]]] = [
    ("/api/v1/auth/login", {"email": NUL, "password": NUL}),
    ("/api/api-keys", {"name": NUL, "scope": "read"}),
    ("/api/v1/agents", {"name": NUL, "scope": {}}),
    ("/api/v1/agents", {"name": "a", "scope": {NUL: NUL}}),
    ("/api/v1/enrollment-tokens", {"name": NUL}),
    ("/api/v1/enrollment-tokens", {"max_uses": HUGE}),
    ("/api/v1/agents/enroll", {"enrollment_token": NUL, "agent_name": NUL, "agent_version": NUL}),
    ("/api/v1/jobs", {"job_type": "discover", "payload": {"a": NUL, NUL: 1}}),
    ("/api/v1/jobs", {"job_type": "discover", "payload": {"n": HUGE}, "priority": HUGE}),
    ("/api/v1/runs", {"name": NUL}),
    ("/api/v1/runs", {"name": "a", "command": ["x", NUL], "env": {"A": NUL}}),
    ("/api/v1/runs", {"name": "a", "project": NUL}),
    ("/api/v1/runs", {"name": "a", "command": ["true"], "timeout_s": HUGE}),
]
GETS = [
    "/api/v1/audit-events?actor=%00&action=%00",
    "/api/v1/audit-events?limit=1000000000000000000000",
    "/api/v1/audit-events?since=0001-01-01T00:00:00Z&until=9999-12-31T23:59:59Z",
    "/api/v1/runs?cursor=%00",
    "/api/v1/runs?limit=99999999999999999999",
    "/api/v1/runs?project=%00",
    "/api/v1/runs/RUN-99999999999999999999",
    "/api/v1/runs/%00",
    "/runs?q=%00",
    "/search?q=%00",
    "/runs/RUN-1/log.json?until=99999999999999999999",
]


async def test_what_the_database_cannot_hold_is_refused(
    db: Database, http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal
) -> None:
    await make_member(db, admin)

    replies = [(path, body, await http.post(path, json=body, headers=callers.headers(admin))) for path, body in POSTS]

    assert not [f"{path} {body}: {reply.status_code} {reply.text[:200]}" for path, body, reply in replies if reply.status_code >= 500]


async def test_odd_parameters_are_refused(http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal) -> None:
    replies = [(path, await http.get(path, headers=callers.headers(admin))) for path in GETS]

    assert not [f"{path}: {reply.status_code} {reply.text[:200]}" for path, reply in replies if reply.status_code >= 500]


async def test_a_lone_surrogate_is_malformed(http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal) -> None:
    headers = callers.headers(admin) | {"content-type": "application/json"}

    for path in sorted({path for path, _ in POSTS}):
        reply = await http.post(path, content=b'{"name":' + SURROGATE + b"}", headers=headers)
        assert reply.status_code in (400, 401), f"{path}: {reply.text}"
