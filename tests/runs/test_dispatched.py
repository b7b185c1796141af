"""Runs that an agent carries out: from the queue to the end, and every way it can end early. Over HTTP, as agents do it."""

import asyncio
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar

from probity.dispatch.events import JobFinished
from probity.dispatch.models import Reason
from probity.kernel.ids import new_id
from probity.kernel.principal import Principal
from probity.kernel.queue import JobState
from probity.runs.ingest.service import IngestService
from probity.runs.models import Run, RunState
from probity.runs.service import RunService
from tests.dispatch.test_hot_routes import only_normal_routes
from tests.http_app import TestAuthenticator
from tests.runs.builders import a_finish, a_log, a_result, a_run, a_start

RUNS = "/api/v1/runs"


@pytest.fixture
def me(callers: TestAuthenticator, admin: Principal) -> dict[str, str]:
    return callers.headers(admin)


class Agent:
    """What the agent program says, without the program."""

    def __init__(self, http: httpx.AsyncClient, minted: dict[str, str]) -> None:
        self._http = http
        self.id = minted["id"]
        self.headers = {"X-Agent-ID": self.id, "X-Agent-Secret": minted["agent_secret"]}

    async def post(self, path: str, body: Any = None) -> httpx.Response:
        return await self._http.post(path, json=body, headers=self.headers)

    async def claim(self) -> dict[str, Any]:
        reply = await self.post(f"/api/v1/agents/{self.id}/jobs/claim")
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def send(self, run: str, *events: Any) -> httpx.Response:
        return await self.post(f"{RUNS}/{run}/events", {"events": msgspec.to_builtins(list(events))})


async def an_agent(http: httpx.AsyncClient, me: dict[str, str], name: str) -> Agent:
    minted = (await http.post("/api/v1/agents", json={"name": name}, headers=me)).json()
    agent = Agent(http, minted)
    assert (await agent.post(f"/api/v1/agents/{agent.id}/heartbeat", {"capabilities": ["command"]})).is_success
    return agent


async def until_final(http: httpx.AsyncClient, me: dict[str, str], run: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while True:
            got: dict[str, Any] = (await http.get(f"{RUNS}/{run}", params={"brief": "true"}, headers=me)).json()
            if got["state"] not in ("queued", "running"):
                return got
            await asyncio.sleep(0.05)


async def test_an_agent_takes_a_run_from_the_queue_to_its_end(http: httpx.AsyncClient, me: dict[str, str]) -> None:
    agent, other = await an_agent(http, me, "one"), await an_agent(http, me, "two")
    body = {"command": ["pytest", "-q"], "agent": "one", "env": {"A": "b"}, "junit": ["*.xml"], "timeout_s": 60}
    run = (await http.post(RUNS, json=body, headers=me)).json()

    job = await agent.claim()
    stranger = await other.send(run["uuid"], a_result("x"))
    await agent.send(run["uuid"], a_start(), a_log(), a_result("a"))
    running = (await http.get(f"{RUNS}/{run['id']}", headers=me)).json()
    uploaded = await http.post(f"{RUNS}/{run['uuid']}/artifacts", params={"name": "a.txt"}, content=b"x", headers=agent.headers)
    refused = await http.post(f"{RUNS}/{run['uuid']}/artifacts", params={"name": "b.txt"}, content=b"x", headers=other.headers)
    await agent.send(run["uuid"], a_finish(0))
    await agent.post(f"/api/v1/agents/{agent.id}/jobs/{job['id']}/complete", {"status": "succeeded"})

    assert job["payload"] == {
        "run_id": run["uuid"], "command": ["pytest", "-q"], "cwd": None, "env": {"A": "b"}, "timeout_s": 60,
        "output_limit_bytes": 52_428_800, "junit": ["*.xml"], "artifacts": [], "pytest_live": True,
    }  # fmt: skip
    assert (run["state"], running["state"], running["agent_id"]) == ("queued", "running", agent.id)
    assert (stranger.status_code, refused.status_code, uploaded.status_code) == (403, 403, 201)
    ended = await until_final(http, me, run["uuid"])
    assert (ended["state"], ended["exit_code"], ended["totals"]["total"]) == ("passed", 0, 1)


async def test_an_agent_may_do_nothing_else_with_runs(http: httpx.AsyncClient, me: dict[str, str]) -> None:
    agent = await an_agent(http, me, "one")
    run = (await http.post(RUNS, json={"command": ["true"]}, headers=me)).json()["uuid"]
    await agent.claim()

    for method, path in (
        ("GET", ""),
        ("GET", f"/{run}"),
        ("GET", f"/{run}/log"),
        ("GET", f"/{run}/events"),
        ("POST", ""),
        ("POST", f"/{run}/abort"),
    ):
        reply = await http.request(method, RUNS + path, json={} if method == "POST" else None, headers=agent.headers)
        assert reply.status_code in (401, 403), (method, path, reply.status_code)


async def test_a_cancelled_job_aborts_its_run(http: httpx.AsyncClient, me: dict[str, str]) -> None:
    run = (await http.post(RUNS, json={"command": ["true"]}, headers=me)).json()

    reply = await http.post(f"{RUNS}/{run['id']}/abort", headers=me)

    assert reply.json() == {"ok": True}
    assert (await until_final(http, me, run["id"]))["state"] == "aborted"
    agent = await an_agent(http, me, "one")
    assert (await agent.post(f"/api/v1/agents/{agent.id}/jobs/claim")).status_code == 204


def finished(run: Run, state: JobState, reason: str | None = None) -> JobFinished:
    assert run.job_id is not None
    return JobFinished(run.job_id, run.org_id, run.id, None, state, reason)


async def test_a_lost_agent_ends_its_run_and_may_still_come_back(runs: RunService, ingest: IngestService, admin: Principal) -> None:
    run = await runs.create(admin, a_run(command=["pytest"]))
    await ingest.ingest(admin, run.id, [a_start(), a_result("a")])

    await runs.close_after_job(finished(run, JobState.FAILED, Reason.LEASE_EXPIRED.value), may_wait=True)
    lost = await runs.get(admin, run.id)
    await ingest.ingest(admin, run.id, [a_result("b"), a_finish(0)])
    back = await runs.get(admin, run.id)

    assert (lost.state, lost.reason_code) == (RunState.ERROR, "lease_expired")
    assert (back.state, back.reason_code, back.totals.total) == (RunState.PASSED, None, 2)


async def test_the_last_events_of_an_agent_are_waited_for(runs: RunService, admin: Principal) -> None:
    run = await runs.create(admin, a_run(command=["pytest"]))
    event = finished(run, JobState.SUCCEEDED)

    assert not await runs.close_after_job(event, may_wait=True)
    assert (await runs.get(admin, run.id)).state is RunState.QUEUED
    assert await runs.close_after_job(event, may_wait=False)
    ended = await runs.get(admin, run.id)
    assert (ended.state, ended.reason_code) == (RunState.ERROR, "no_finish")


async def test_the_end_of_a_job_changes_nothing_about_a_run_that_has_ended(runs: RunService, admin: Principal) -> None:
    run = await runs.create(admin, a_run(command=["pytest"]))
    await runs.abort(admin, run.id)

    assert await runs.close_after_job(finished(run, JobState.CANCELLED, Reason.CANCELLED.value), may_wait=True)
    assert await runs.close_after_job(finished(run, JobState.SUCCEEDED), may_wait=True)

    assert (await runs.get(admin, run.id)).state is RunState.ABORTED


GOOD = {"type": "result", "id": "e1", "at": "2026-01-01T00:00:00Z", "case": "a", "name": "a", "outcome": "passed", "duration_ms": 1}
BODIES: list[bytes] = [
    msgspec.json.encode({"events": [GOOD, GOOD | {"id": "e2", "outcome": "failed", "message": "m\x00"}]}),
    msgspec.json.encode({"events": [GOOD | {"outcome": "odd", "duration_ms": -1}, {"type": "log"}]}),
    msgspec.json.encode({"events": []}),
    msgspec.json.encode({"events": [GOOD | {"id": "a\x00"}]}),
    b"", b"{", b"[]", b"null", b"\xff", b"{}", b'{"events":[{}]}', b'{"events":' + b"[" * 5000,
]  # fmt: skip


async def test_the_short_way_answers_like_the_normal_route(app: Litestar, http: httpx.AsyncClient, me: dict[str, str]) -> None:
    agent, other = await an_agent(http, me, "one"), await an_agent(http, me, "two")
    wrong = agent.headers | {"X-Agent-Secret": "wrong"}
    statuses = set()
    callers: tuple[dict[str, str], ...] = (
        agent.headers,
        other.headers,
        wrong,
        {"X-Agent-ID": "odd", "X-Agent-Secret": "x"},
        {},
        {"authorization": "Bearer pa_x"},
        me,
    )
    # Every caller and every name with one good body; every body by one good caller.
    requests = [
        (BODIES[0], caller, name, "application/json") for caller in callers for name in ("{run}", "RUN-{number}", "odd", str(new_id()))
    ]
    requests += [(body, agent.headers, "{run}", "application/json") for body in BODIES] + [
        (BODIES[0], agent.headers, "{run}", "text/plain")
    ]
    for body, caller, name, media in requests:
        headers = dict(caller) | {"content-type": media}
        hot = await _answer(http, me, agent, name, body, headers)
        with only_normal_routes(app):
            normal = await _answer(http, me, agent, name, body, headers)
        assert hot == normal, (body[:80], caller, name, media)
        statuses.add(hot[0])
    assert statuses >= {200, 400, 401, 403, 404, 415}


async def _answer(
    http: httpx.AsyncClient, me: dict[str, str], agent: Agent, name: str, body: bytes, headers: dict[str, str]
) -> tuple[Any, ...]:
    run = (await http.post(RUNS, json={"command": ["true"]}, headers=me)).json()
    if agent.headers["X-Agent-Secret"] == headers.get("X-Agent-Secret"):
        await agent.claim()
    path = f"{RUNS}/{name.format(run=run['uuid'], number=run['number'])}/events"
    reply = await http.post(path, content=body, headers=headers)
    await http.post(f"{RUNS}/{run['uuid']}/abort", headers=me)
    said = reply.json() | {"request_id": None}
    return reply.status_code, said, sorted(key for key in reply.headers if key not in ("date", "content-length"))
