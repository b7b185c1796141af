"""The job routes of the secrets contract (scenarios 22 and 26), renewal, waiting and cancelling, on the whole application."""

import asyncio
import re

import httpx
import msgspec
import pytest

from probity import main
from probity.config import Config
from probity.kernel.ids import new_id
from probity.kernel.principal import Principal
from tests.fleet.test_http import as_admin, as_outsider, mint
from tests.http_app import TestAuthenticator, served

__all__ = ["as_admin", "as_outsider"]
NANOS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")


async def queue(http: httpx.AsyncClient, headers: dict[str, str], **body: object) -> str:
    reply = await http.post("/api/v1/jobs", headers=headers, json={"job_type": "verify", **body})
    assert reply.status_code == 201, reply.text
    return str(reply.json()["id"])


async def test_a_job_is_queued_claimed_and_completed(http: httpx.AsyncClient, as_admin: dict[str, str]) -> None:
    path, secret = await mint(http, as_admin)
    correlation_id = str(new_id())
    queued = await http.post(
        "/api/v1/jobs", headers=as_admin, json={"job_type": "discover", "payload": {"a": [1, "ü"]}, "correlation_id": correlation_id}
    )
    assert (queued.status_code, list(queued.json())) == (201, ["id", "correlation_id", "status"])
    assert (queued.json()["correlation_id"], queued.json()["status"]) == (correlation_id, "queued")

    claimed = await http.post(f"{path}/jobs/claim", headers=secret)
    nothing = await http.post(f"{path}/jobs/claim", headers=secret, content=b"body is ignored")
    job = claimed.json()
    renewed = await http.post(f"{path}/jobs/{job['id']}/renew", headers=secret)
    ended = [await http.post(f"{path}/jobs/{job['id']}/complete", headers=secret, json={"status": "succeeded"}) for _ in range(2)]

    assert list(job) == ["id", "job_type", "payload", "correlation_id", "claim_expires_at"]
    assert (job["id"], job["job_type"], job["payload"]) == (queued.json()["id"], "discover", {"a": [1, "ü"]})
    assert job["correlation_id"] == correlation_id
    assert NANOS.fullmatch(job["claim_expires_at"]) and NANOS.fullmatch(renewed.json()["claim_expires_at"])
    assert (nothing.status_code, nothing.content) == (204, b"")
    assert renewed.json()["cancel"] is False
    assert [(reply.status_code, reply.content) for reply in ended] == [(204, b"")] * 2
    shown = (await http.get(f"/api/v1/jobs/{job['id']}", headers=as_admin)).json()
    assert (shown["status"], shown["attempt"]) == ("succeeded", 1)


async def test_two_agents_never_get_one_job_and_only_the_holder_ends_it(http: httpx.AsyncClient, as_admin: dict[str, str]) -> None:
    agents = [await mint(http, as_admin, f"agent-{n}") for n in range(2)]
    job_id = await queue(http, as_admin)

    replies = await asyncio.gather(*(http.post(f"{path}/jobs/claim", headers=secret) for path, secret in agents))

    assert sorted(reply.status_code for reply in replies) == [200, 204]
    holder, other = agents if replies[0].status_code == 200 else agents[::-1]

    async def complete(agent: tuple[str, dict[str, str]], status: str, job_id: str = job_id) -> tuple[int, str | None]:
        reply = await http.post(f"{agent[0]}/jobs/{job_id}/complete", headers=agent[1], json={"status": status, "error": "e"})
        return reply.status_code, reply.json()["error"] if reply.content else None

    assert await complete(other, "succeeded") == (409, "job not owned by this agent")
    assert await complete(holder, "nonsense") == (400, "invalid JSON body")
    assert await complete(holder, "failed") == (204, None)
    assert await complete(other, "succeeded") == (204, None)
    assert await complete(holder, "failed", str(new_id())) == (404, "job not found")
    assert await complete(holder, "failed", "nonsense") == (400, "invalid job id")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "jobs: JobType is required"),
        ({"job_type": "nonsense"}, "jobs: create: unknown job type 'nonsense'"),
        ({"job_type": "command"}, "jobs: create: unknown job type 'command'; commands are started with POST /api/v1/runs"),
        ({"job_type": "read", "request_id": str(new_id())}, "jobs: create: unknown request"),
        ({"job_type": "read", "request_id": "x"}, "invalid JSON body"),
        ({"job_type": "read", "payload": [1]}, "invalid JSON body"),
    ],
)
async def test_queueing_refuses_bad_input(http: httpx.AsyncClient, as_admin: dict[str, str], body: dict[str, object], error: str) -> None:
    reply = await http.post("/api/v1/jobs", headers=as_admin, json=body)

    assert (reply.status_code, reply.json()["error"]) == (400, error)


async def test_queueing_needs_the_permission_of_jobs(http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal) -> None:
    powerless = callers.headers(msgspec.structs.replace(admin, permissions=frozenset({"agent.list"})))

    assert (await http.post("/api/v1/jobs", json={"job_type": "read"})).status_code == 401
    assert (await http.post("/api/v1/jobs", headers=powerless, json={"job_type": "read"})).status_code == 403


async def test_jobs_of_another_organization_do_not_exist(
    http: httpx.AsyncClient, as_admin: dict[str, str], as_outsider: dict[str, str]
) -> None:
    job_id = await queue(http, as_admin)
    path, secret = await mint(http, as_outsider)

    assert (await http.get(f"/api/v1/jobs/{job_id}", headers=as_outsider)).status_code == 404
    assert (await http.post(f"/api/v1/jobs/{job_id}/cancel", headers=as_outsider)).status_code == 404
    assert (await http.post(f"{path}/jobs/claim", headers=secret)).status_code == 204
    for action, body in (("renew", None), ("complete", {"status": "failed"})):
        reply = await http.post(f"{path}/jobs/{job_id}/{action}", headers=secret, json=body)
        assert (reply.status_code, reply.json()["error"]) == (404, "job not found")


async def test_a_waiting_job_is_cancelled_at_once(http: httpx.AsyncClient, as_admin: dict[str, str]) -> None:
    job_id = await queue(http, as_admin)

    replies = [await http.post(f"/api/v1/jobs/{job_id}/cancel", headers=as_admin) for _ in range(2)]

    assert [(reply.status_code, reply.json()["status"], reply.json()["reason_code"]) for reply in replies] == [
        (200, "cancelled", "cancelled")
    ] * 2


async def test_a_waiting_claim_is_answered_by_the_next_job(http: httpx.AsyncClient, as_admin: dict[str, str]) -> None:
    path, secret = await mint(http, as_admin)
    waiting = asyncio.create_task(http.post(f"{path}/jobs/claim?wait=20", headers=secret))
    await asyncio.sleep(0.2)

    job_id = await queue(http, as_admin)
    reply = await asyncio.wait_for(waiting, 3)

    assert (reply.status_code, reply.json()["id"]) == (200, job_id)
    assert (await asyncio.wait_for(http.post(f"{path}/jobs/claim?wait=0.1", headers=secret), 3)).status_code == 204
    for wrong in ("-1", "x", "nan", "0.1&wait=0.1"):
        reply = await asyncio.wait_for(http.post(f"{path}/jobs/claim?wait={wrong}", headers=secret), 3)
        assert reply.status_code in (400, 204), wrong


async def test_an_agent_that_hangs_up_while_waiting_gets_no_job(live_server: str, callers: TestAuthenticator, admin: Principal) -> None:
    headers = callers.headers(admin)
    async with httpx.AsyncClient(base_url=live_server) as http:
        path, secret = await mint(http, headers)
        with pytest.raises(httpx.ReadTimeout):
            await http.post(f"{path}/jobs/claim?wait=20", headers=secret, timeout=0.3)
        await asyncio.sleep(0.1)
        job_id = await queue(http, headers)
        await asyncio.sleep(0.2)

        assert (await http.get(f"/api/v1/jobs/{job_id}", headers=headers)).json()["status"] == "queued"
        assert (await http.post(f"{path}/jobs/claim", headers=secret)).json()["id"] == job_id


async def test_two_servers_on_one_database_share_claims_and_revocation(
    live_server: str, config: Config, callers: TestAuthenticator, admin: Principal
) -> None:
    headers = callers.headers(admin)
    with served(main.build(config, authenticators=[callers])) as other_server:
        async with httpx.AsyncClient(base_url=live_server) as one, httpx.AsyncClient(base_url=other_server) as two:
            agents = [await mint(one, headers, f"agent-{n}") for n in range(6)]
            jobs = [await queue(one, headers) for _ in range(30)]

            async def work(http: httpx.AsyncClient, path: str, secret: dict[str, str]) -> list[str]:
                done: list[str] = []
                while (reply := await http.post(f"{path}/jobs/claim", headers=secret)).status_code == 200:
                    job_id = reply.json()["id"]
                    ended = await http.post(f"{path}/jobs/{job_id}/complete", headers=secret, json={"status": "succeeded"})
                    assert ended.status_code == 204
                    done.append(job_id)
                assert reply.status_code == 204
                return done

            done = await asyncio.gather(*(work((one, two)[n % 2], path, secret) for n, (path, secret) in enumerate(agents)))
            path, secret = agents[1]
            waiting = asyncio.create_task(two.post(f"{path}/jobs/claim?wait=10", headers=secret))
            await asyncio.sleep(0.2)
            woken_by = await queue(one, headers)
            assert (await asyncio.wait_for(waiting, 5)).json()["id"] == woken_by
            assert (await one.post(f"{path}/revoke", headers=headers)).status_code == 204
            assert (await two.post(f"{path}/heartbeat", headers=secret)).status_code == 401

    assert sorted(job_id for ids in done for job_id in ids) == sorted(jobs)
