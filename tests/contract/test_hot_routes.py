"""Every hot route answers as its normal route does, for what agents send and for what nobody should."""

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litestar import Litestar

from probity.kernel.ids import new_id
from probity.kernel.principal import Principal
from tests.differential import hot_routes_of, normalized, without_hot_routes
from tests.http_app import TestAuthenticator

NOBODY = "00000000-0000-7000-8000-000000000000"
Replies = list[httpx.Response]
Agent = tuple[str, dict[str, str]]


async def an_agent(http: httpx.AsyncClient, headers: dict[str, str], name: str) -> Agent:
    reply = await http.post("/api/v1/agents", json={"name": name, "scope": {}}, headers=headers)
    body = reply.json()
    assert reply.status_code == 201, reply.text
    return body["id"], {"x-agent-secret": body["agent_secret"]}


async def life_of_a_job(http: httpx.AsyncClient, people: dict[str, str], name: str) -> Replies:
    """Heartbeats, claims, renewals and completions, in every order that an agent might try."""
    agent, secret = await an_agent(http, people, name)
    other, other_secret = await an_agent(http, people, f"{name}-other")
    base, jobs = f"/api/v1/agents/{agent}", f"/api/v1/agents/{agent}/jobs"
    replies: Replies = []

    async def call(path: str, json: object = None, headers: dict[str, str] | None = None, content: bytes | None = None) -> httpx.Response:
        body = {"content": content} if content is not None else {"json": json} if json is not None else {}
        reply = await http.post(path, headers=secret if headers is None else headers, **body)
        replies.append(reply)
        return reply

    await call(f"{base}/heartbeat")
    await call(f"{base}/heartbeat", {"agent_version": "1.0", "capabilities": ["discover"]})
    await call(f"{base}/heartbeat", {"agent_version": 5})
    await call(f"{base}/heartbeat", headers={})
    await call(f"{base}/heartbeat", headers={"x-agent-secret": "wrong"})
    await call(f"{base}/heartbeat", headers=other_secret)
    await call(f"{jobs}/claim")
    for n in range(3):
        await http.post("/api/v1/jobs", json={"job_type": "discover", "payload": {"n": n}, "agent_id": agent}, headers=people)
    claimed = (await call(f"{jobs}/claim")).json()
    job = claimed["id"] if "id" in claimed else claimed["job_id"]
    await call(f"{jobs}/{job}/renew")
    await call(f"/api/v1/agents/{other}/jobs/{job}/renew", headers=other_secret)
    await call(f"/api/v1/agents/{other}/jobs/{job}/complete", {"status": "succeeded"}, other_secret)
    await call(f"{jobs}/{job}/complete", {"status": "perhaps"})
    await call(f"{jobs}/{job}/complete", content=b"{")
    await call(f"{jobs}/{job}/complete", {"status": "succeeded"})
    await call(f"{jobs}/{job}/complete", {"status": "succeeded"})
    await call(f"{jobs}/{job}/renew")
    await call(f"{jobs}/{NOBODY}/complete", {"status": "succeeded"})
    await call(f"{jobs}/nonsense/complete", {"status": "succeeded"})
    await call(f"{jobs}/nonsense/renew")
    await call(f"{jobs}/claim?wait=x")
    await call(f"{jobs}/claim?wait=0")
    await call(f"{jobs}/claim?wait=-1")
    await call(f"{jobs}/claim?wait=1000000")
    return replies


async def test_the_life_of_a_job_is_the_same_on_both_ways(
    app: Litestar, http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal
) -> None:
    people = callers.headers(admin)

    hot = await life_of_a_job(http, people, "hot")
    with without_hot_routes(app):
        normal = await life_of_a_job(http, people, "normal")

    for one, two in zip(hot, normal, strict=True):
        assert normalized(one) == normalized(two), f"{one.request.method} {one.request.url} {one.request.content!r}"


HEADERS = [{}, {"x-agent-secret": "x"}, {"x-agent-secret": "A" * 43}, {"x-agent-id": NOBODY, "x-agent-secret": "A" * 43}]
BODIES = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"{",
    b'"\xff"',
    b"[" * 3000,
    b'{"status":"succeeded"}',
    b'{"status":5,"error":[],"capabilities":1,"events":{}}',
    b'{"events":[{"id":1}]}',
    b'{"error":"\\u0000","status":"failed"}',
    b" " * 20_000_000,
]
QUERIES = ["", "?wait=", "?wait=abc", "?wait=1e9", "?wait=nan", "?x=1&x=2", "?%ff=%00", "?wait=0&wait=1"]


@pytest.mark.parametrize("prefix", ["", "/compat/bridge"], ids=["root", "pinned"])
async def test_strangers_and_nonsense_get_the_same_answer_on_both_ways(app: Litestar, http: httpx.AsyncClient, prefix: str) -> None:
    routes = hot_routes_of(app)
    assert routes
    different = []
    for route in routes:
        for identifier in (NOBODY, "nonsense", "%00"):
            path = prefix + "/".join(identifier if part.startswith("{") else part for part in route.path.split("/"))
            inputs = (
                [(h, b, "") for h in HEADERS for b in BODIES[:-1]]
                + [(HEADERS[1], b"", q) for q in QUERIES]
                + [(HEADERS[1], BODIES[-1], "")]
            )
            for headers, body, query in inputs:
                hot = await http.request(route.method, path + query, content=body, headers=headers)
                with without_hot_routes(app):
                    normal = await http.request(route.method, path + query, content=body, headers=headers)
                if normalized(hot) != normalized(normal) or hot.status_code >= 500:
                    different.append(
                        f"{path}{query} {headers} {body[:60]!r}: {hot.status_code} {hot.text[:90]} | {normal.status_code} {normal.text[:90]}"
                    )

    assert not different, "\n".join(different)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["status", "error", "result", "capabilities", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_any_json_from_an_agent_gets_the_same_answer_on_both_ways(
    data: st.DataObject, app: Litestar, http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal
) -> None:
    agent, secret = await an_agent(http, callers.headers(admin), f"agent-{new_id()}")
    route = data.draw(st.sampled_from([route for route in hot_routes_of(app) if "agent_id" in route.path]))
    path = route.path.replace("{agent_id}", agent).replace("{job_id}", NOBODY)
    body = data.draw(json_values)

    hot = await http.request(route.method, path, json=body, headers=secret)
    with without_hot_routes(app):
        normal = await http.request(route.method, path, json=body, headers=secret)

    assert normalized(hot) == normalized(normal)
    assert hot.status_code < 500
