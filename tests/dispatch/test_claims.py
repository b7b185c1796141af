import asyncio
from typing import Any
from uuid import UUID

import pytest

from probity.dispatch.errors import InvalidJob, JobNotFound, JobNotOwned, QueueFull
from probity.dispatch.models import Completion, CompletionStatus, JobId, NewJob
from probity.fleet.errors import AgentNotFound, AgentRejected
from probity.fleet.models import AgentCredential
from probity.kernel.db import Database, execute, fetch_rows
from probity.kernel.errors import Denied, Unauthenticated
from probity.kernel.ids import new_id
from probity.kernel.principal import ANONYMOUS, AgentId, Principal
from probity.kernel.queue import JobState
from tests.cluster import TestDatabase
from tests.dispatch.conftest import FAILED, HERE, SUCCEEDED, Server, a_job, an_agent, claim
from tests.fakes import FakeClock
from tests.fleet.conftest import trail


async def test_a_claim_returns_the_job_and_its_lease(server: Server, admin: Principal, clock: FakeClock, db: Database) -> None:
    agent = await an_agent(server, admin)
    job_id = await a_job(server, admin, payload={"a": [1]})

    job = await server.dispatch.claim(agent, address=HERE)

    assert job is not None
    assert (job.id, job.kind, bytes(job.payload)) == (job_id, "verify", b'{"a": [1]}')
    assert (job.claim_expires_at - clock.now()).total_seconds() == 30
    assert await claim(server, agent) is None
    action, actor, _, _ = (await trail(db))[-1]
    assert (action, actor) == ("job.claim", f"agent:{agent.agent_id}")


async def test_higher_priority_goes_first_then_the_older_job(server: Server, admin: Principal, clock: FakeClock) -> None:
    agent = await an_agent(server, admin)
    jobs = []
    for priority in (0, 5, 0, 5):
        jobs.append(await a_job(server, admin, priority=priority))
        clock.advance(1)

    one_by_one = [await claim(server, agent) for _ in range(2)]
    together = await asyncio.gather(*(claim(server, agent) for _ in range(3)))

    assert one_by_one == [jobs[1], jobs[3]]
    assert together == [jobs[0], jobs[2], None]


@pytest.mark.parametrize("crowd", [0, 3])
async def test_a_job_goes_only_to_agents_that_it_asks_for(server: Server, admin: Principal, crowd: int) -> None:
    plain = await an_agent(server, admin, "plain")
    runner = await an_agent(server, admin, "runner", capabilities=("command",), tags=("linux", "gpu"))
    idle = [await an_agent(server, admin, f"idle-{n}", capabilities=("nothing",), tags=(str(n),)) for n in range(crowd)]
    for n in range(crowd):
        await a_job(server, admin, kind="command", tags=("no such tag", str(n)))

    async def served(**fields: Any) -> str:
        """Return who gets the job when everybody claims, in one statement or, without a crowd, each in its own."""
        job_id = await a_job(server, admin, **fields)
        if crowd:
            found = await asyncio.gather(*(claim(server, agent) for agent in (plain, runner, *idle)))
        else:
            found = [await claim(server, agent) for agent in (plain, runner)]
        if job_id not in found:
            await server.dispatch.cancel(admin, job_id)
            return "nobody"
        return ["plain", "runner"][found.index(job_id)]

    assert await served(kind="verify") == "plain"
    assert await served(kind="command") == "runner"
    assert await served(kind="command", tags=("gpu",)) == "runner"
    assert await served(kind="command", tags=("gpu", "windows")) == "nobody"
    assert await served(kind="verify", tags=("gpu",)) == "nobody"
    assert await served(kind="command", capability="browser") == "nobody"
    assert await served(kind="command", agent_id=runner.agent_id) == "runner"
    assert await served(kind="command", agent_id=plain.agent_id) == "nobody"
    assert await served(kind="read", agent_id=plain.agent_id) == "plain"


async def test_jobs_that_name_the_agent_go_before_others(server: Server, admin: Principal) -> None:
    agent, other = await an_agent(server, admin), await an_agent(server, admin, "other")
    open_job = await a_job(server, admin, priority=9)
    pinned = [await a_job(server, admin, agent_id=agent.agent_id) for _ in range(2)]

    found = list(await asyncio.gather(claim(server, other), claim(server, agent), claim(server, agent), claim(server, agent)))

    assert found == [open_job, *pinned, None]


async def test_a_job_that_several_classes_want_goes_to_one_and_the_rest_still_find_theirs(server: Server, admin: Principal) -> None:
    agents = [await an_agent(server, admin, f"agent-{n}", tags=(str(n),)) for n in range(8)]
    jobs = [await a_job(server, admin) for _ in range(6)]

    found = await asyncio.gather(*(claim(server, agent) for agent in agents))

    taken = [job for job in found if job]
    assert len(taken) == len(set(taken))
    assert set(taken) <= set(jobs)
    rest = [job for agent in agents for job in [await claim(server, agent)] if job]
    assert sorted([*taken, *rest]) == sorted(jobs)


async def test_other_organizations_jobs_are_never_claimed_seen_or_ended(server: Server, admin: Principal, outsider: Principal) -> None:
    agent, foreign = await an_agent(server, admin), await an_agent(server, outsider)
    job_id = await a_job(server, admin)

    assert list(await asyncio.gather(claim(server, foreign), claim(server, foreign))) == [None, None]
    assert await claim(server, agent) == job_id
    for call in (
        server.dispatch.complete(foreign, job_id, SUCCEEDED, address=HERE),
        server.dispatch.renew(foreign, job_id, address=HERE),
        server.dispatch.get_job(outsider, job_id),
        server.dispatch.cancel(outsider, job_id),
    ):
        with pytest.raises(JobNotFound):
            await call
    with pytest.raises(AgentNotFound):
        await a_job(server, outsider, agent_id=agent.agent_id)


async def test_a_wrong_or_revoked_credential_claims_nothing_in_any_server(server: Server, other_server: Server, admin: Principal) -> None:
    agent = await an_agent(server, admin)
    job_id = await a_job(server, admin)
    wrong = AgentCredential(agent.agent_id, b"x" * 32)

    found = await asyncio.gather(*(claim(server, credential) for credential in (wrong, agent, wrong)), return_exceptions=True)
    assert [isinstance(result, UUID) for result in found] == [False, True, False]
    await server.fleet.revoke(admin, agent.agent_id)

    for call in (
        other_server.dispatch.claim(agent, address=HERE),
        other_server.dispatch.claim(AgentCredential(AgentId(new_id()), b"x" * 32), address=HERE),
        other_server.dispatch.renew(agent, job_id, address=HERE),
        other_server.dispatch.complete(agent, job_id, SUCCEEDED, address=HERE),
    ):
        with pytest.raises(AgentRejected):
            await call


async def test_a_long_poll_is_woken_by_a_job_from_another_server(server: Server, other_server: Server, admin: Principal) -> None:
    agent = await an_agent(server, admin)
    await server.wakeups.start()
    await other_server.wakeups.start()
    waiting = asyncio.create_task(server.dispatch.claim(agent, address=HERE, wait_s=20))
    await asyncio.sleep(0.1)

    job_id = await a_job(other_server, admin)
    job = await asyncio.wait_for(waiting, 2)

    await server.wakeups.close()
    await other_server.wakeups.close()
    assert job is not None and job.id == job_id


async def test_a_long_poll_ends_empty_after_its_time_and_at_shutdown(server: Server, admin: Principal) -> None:
    agent = await an_agent(server, admin)

    assert await asyncio.wait_for(server.dispatch.claim(agent, address=HERE, wait_s=0.1), 1) is None
    waiting = asyncio.create_task(server.dispatch.claim(agent, address=HERE, wait_s=30))
    await asyncio.sleep(0.05)
    server.dispatch.stop()
    assert await asyncio.wait_for(waiting, 1) is None


async def test_a_claim_whose_agent_hung_up_is_given_back(server: Server, admin: Principal) -> None:
    agent = await an_agent(server, admin)
    job_id = await a_job(server, admin)

    gone = asyncio.create_task(server.dispatch.claim(agent, address=HERE))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    async with asyncio.timeout(2):
        while (await server.dispatch.get_job(admin, job_id)).state is not JobState.QUEUED or server.dispatch._giving_back:
            await asyncio.sleep(0.01)

    job = await server.dispatch.get_job(admin, job_id)
    assert (job.attempt, job.claimed_by) == (0, None)
    assert await claim(server, agent) == job_id


async def test_the_queue_has_a_cap_per_organization_and_per_agent(
    db: Database, clock: FakeClock, admin: Principal, outsider: Principal
) -> None:
    server = Server(db, clock, queue_cap=3, agent_queue_cap=1)
    agent = await an_agent(server, admin)
    await a_job(server, admin, agent_id=agent.agent_id)

    with pytest.raises(QueueFull, match="agent"):
        await a_job(server, admin, agent_id=agent.agent_id)
    await a_job(server, admin)
    await a_job(server, admin)
    with pytest.raises(QueueFull, match="organization"):
        await a_job(server, admin)
    await a_job(server, outsider)
    await claim(server, agent)
    await a_job(server, admin)


@pytest.mark.parametrize("fields", [{"kind": "nonsense"}, {"timeout_s": 0}, {"timeout_s": 10**9}, {"tags": tuple("x" * 60)}])
async def test_a_job_that_no_agent_could_do_is_refused(server: Server, admin: Principal, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidJob):
        await a_job(server, admin, **fields)


async def test_queueing_needs_its_permission(server: Server) -> None:
    for call in (
        server.dispatch.enqueue_job(ANONYMOUS, NewJob(kind="read")),
        server.dispatch.cancel(ANONYMOUS, JobId(new_id())),
        server.dispatch.get_job(ANONYMOUS, JobId(new_id())),
    ):
        with pytest.raises((Unauthenticated, Denied)):
            await call


async def test_sixty_four_claimers_complete_every_job_once(
    server: Server, other_server: Server, admin: Principal, outsider: Principal, db: Database, pg: TestDatabase
) -> None:
    """Two servers, two organizations, 5,000 jobs; each is completed twice, and once counts."""
    count = 2_500
    agents: list[tuple[Server, AgentCredential]] = []
    for n in range(32):
        agents.append((server, await an_agent(server, admin, f"a-{n}", tags=("big",) if n % 3 == 0 else ())))
        agents.append((other_server, await an_agent(other_server, outsider, f"b-{n}")))
    async with db.system() as tx:
        for principal in (admin, outsider):
            await execute(
                tx,
                """
                insert into jobs (id, org_id, lane, kind, correlation_id, run_at, tags)
                select probity_new_id(), :org_id, 'agent', 'verify', gen_random_uuid(), '2025-01-01', case when n % 7 = 0 then '{big}' else '{}' end::text[]
                  from generate_series(1, :count) as n
                """,
                org_id=principal.org_id,
                count=count,
            )
            if principal is outsider:
                await execute(tx, "update jobs set tags = '{}' where org_id = :org_id", org_id=principal.org_id)

    async def work(at: Server, agent: AgentCredential) -> list[JobId]:
        done = []
        while (job := await at.dispatch.claim(agent, address=HERE)) is not None:
            await asyncio.gather(*(at.dispatch.complete(agent, job.id, SUCCEEDED, address=HERE) for _ in range(2)))
            done.append(job.id)
        return done

    done = [job for jobs in await asyncio.gather(*(work(at, agent) for at, agent in agents)) for job in jobs]

    assert len(done) == len(set(done)) == 2 * count
    async with db.system() as tx:
        rows = await fetch_rows(tx, "select state, attempt, count(*) as n from jobs where lane = 'agent' group by 1, 2")
        audited = await fetch_rows(
            tx,
            "select action, count(*) as n, count(distinct resource) as d from audit_events where action in ('job.claim', 'job.complete') group by 1",
        )
    assert [tuple(row) for row in rows] == [("succeeded", 1, 2 * count)]
    assert sorted(tuple(row) for row in audited) == [("job.claim", 2 * count, 2 * count), ("job.complete", 2 * count, 2 * count)]


async def test_concurrent_completes_by_the_holder_have_one_effect(
    server: Server, other_server: Server, admin: Principal, db: Database
) -> None:
    agent = await an_agent(server, admin)
    job_id = await a_job(server, admin, run_id=new_id())
    await claim(server, agent)
    ends = [SUCCEEDED, FAILED] * 10

    await asyncio.gather(*((server, other_server)[n % 2].dispatch.complete(agent, job_id, end, address=HERE) for n, end in enumerate(ends)))
    await server.dispatch.complete(agent, job_id, FAILED, address=HERE)

    actions = [action for action, _, _, _ in await trail(db)]
    assert actions.count("job.complete") == 1
    async with db.system() as tx:
        events = await fetch_rows(tx, "select payload from jobs where kind = 'event:job.finished'")
    job = await server.dispatch.get_job(admin, job_id)
    assert [row["payload"]["state"] for row in events] == [job.state.value]
    assert job.state in (JobState.SUCCEEDED, JobState.FAILED)


async def test_another_agents_complete_is_refused_while_the_job_is_held_and_harmless_afterwards(
    server: Server, admin: Principal, db: Database
) -> None:
    agent, other = await an_agent(server, admin), await an_agent(server, admin, "other")
    job_id = await a_job(server, admin)
    with pytest.raises(JobNotOwned):
        await server.dispatch.complete(other, job_id, SUCCEEDED, address=HERE)
    await claim(server, agent)

    with pytest.raises(JobNotOwned, match="job not owned by this agent"):
        await server.dispatch.complete(other, job_id, FAILED, address=HERE)
    with pytest.raises(JobNotOwned):
        await server.dispatch.renew(other, job_id, address=HERE)
    await server.dispatch.complete(agent, job_id, SUCCEEDED, address=HERE)
    await server.dispatch.complete(other, job_id, FAILED, address=HERE)

    assert (await server.dispatch.get_job(admin, job_id)).state is JobState.SUCCEEDED
    assert [action for action, _, _, _ in await trail(db)][-2:] == ["job.complete", "job.complete.idempotent"]
    with pytest.raises(JobNotFound):
        await server.dispatch.complete(agent, JobId(new_id()), SUCCEEDED, address=HERE)


async def test_what_an_agent_says_is_stored_whatever_it_contains(server: Server, admin: Principal, db: Database) -> None:
    agent = await an_agent(server, admin)
    job_id = await a_job(server, admin)
    await claim(server, agent)

    said = Completion(status=CompletionStatus.FAILED, error="a\x00b" + "x" * 20_000, reason_code="r", result={"n": 1})
    await server.dispatch.complete(agent, job_id, said, address=HERE)

    job = await server.dispatch.get_job(admin, job_id)
    assert job.error is not None and job.error.startswith("a\N{REPLACEMENT CHARACTER}b") and len(job.error) == 10_000
