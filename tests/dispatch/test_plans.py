"""Hot statements read what they need and no more, however many jobs have ended, wait for others, or are held."""

from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from probity.dispatch import lease_store
from probity.dispatch.models import JobId
from probity.fleet.models import AgentCredential
from probity.kernel.db import Database, execute, translate
from probity.kernel.principal import Principal
from tests.cluster import TestDatabase
from tests.dispatch.conftest import Server, a_job, an_agent
from tests.fakes import FakeClock

FILLED = 30_000


@pytest_asyncio.fixture
async def crowded(db: Database, admin: Principal, outsider: Principal, pg: TestDatabase) -> None:
    """Both organizations with many ended jobs, held jobs, and waiting jobs that only other agents can do."""
    async with db.system() as tx:
        for principal in (admin, outsider):
            await execute(
                tx,
                """
                insert into jobs (id, org_id, lane, kind, correlation_id, run_at, state, capability, claimed_by, claim_expires_at, finished_at)
                select probity_new_id(), :org_id, 'agent', 'command', gen_random_uuid(), '2025-01-01',
                       case when n % 3 = 0 then 'queued' when n % 30 = 1 then 'claimed' else 'succeeded' end,
                       case when n % 3 = 0 then 'browser' else 'command' end,
                       gen_random_uuid(), '2030-01-01', '2025-01-01'
                  from generate_series(1, :n) as n
                """,
                org_id=principal.org_id,
                n=FILLED // 2,
            )
            await execute(
                tx,
                """
                insert into agents (id, org_id, name, status, secret_hash, created_at, capabilities)
                select probity_new_id(), :org_id, 'crowd ' || n, 'active', sha256(n::text::bytea), now(), '{browser}'
                  from generate_series(1, :n) as n
                """,
                org_id=principal.org_id,
                n=FILLED // 10,
            )
    superuser = await asyncpg.connect(pg.owner.reveal())
    await superuser.execute("analyze jobs, agents")
    await superuser.close()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


async def rows_read(db: Database, sql: str, **params: object) -> int:
    """Run the statement under explain, as the generic plan that a prepared statement ends up with, and undo it.

    Returns how many rows of `jobs` and `agents` it looked at.
    """
    statement, names = translate(sql)
    conn = await db.dedicated()
    try:
        await conn.execute("set plan_cache_mode = force_generic_plan")
        undone = conn.transaction()
        await undone.start()
        ((result,),) = await conn.fetch(f"explain (analyze, format json) {statement}", *[params[name] for name in names])
        await undone.rollback()
    finally:
        await conn.close()
    read = 0
    for node in nodes(result[0]["Plan"]):
        if node.get("Relation Name") in ("jobs", "agents") and "Scan" in node["Node Type"]:
            assert node["Node Type"] != "Seq Scan", node["Alias"]
            removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
            read += round((node["Actual Rows"] + removed) * node["Actual Loops"])
    return read


async def agents_and_jobs(server: Server, admin: Principal) -> tuple[list[AgentCredential], list[JobId]]:
    agents = [await an_agent(server, admin, f"agent-{n}", capabilities=("command",)) for n in range(4)]
    jobs = [await a_job(server, admin, kind="command") for _ in range(4)]
    return agents, jobs


@pytest.mark.usefixtures("crowded")
async def test_a_claim_reads_a_handful_of_rows(server: Server, admin: Principal, clock: FakeClock, db: Database) -> None:
    agents, _ = await agents_and_jobs(server, admin)
    now = clock.now()
    common = {"own_kinds": ["command"], "now": now, "until": now}

    one = await rows_read(db, lease_store._CLAIM_ONE, agent_id=agents[0].agent_id, secret_hash=agents[0].secret_hash, **common)
    ids, hashes = [agent.agent_id for agent in agents], [agent.secret_hash for agent in agents]
    many = await rows_read(db, lease_store._CLAIM_MANY, agent_ids=ids, hashes=hashes, **common)

    assert one <= 5
    assert many <= 30


@pytest.mark.usefixtures("crowded")
async def test_a_completion_finds_its_rows_by_key(server: Server, admin: Principal, clock: FakeClock, db: Database) -> None:
    agents, jobs = await agents_and_jobs(server, admin)
    now = clock.now()

    ended = await rows_read(
        db,
        lease_store._END,
        agent_ids=[agent.agent_id for agent in agents],
        hashes=[agent.secret_hash for agent in agents],
        job_ids=jobs,
        states=["succeeded"] * 4,
        errors=[None] * 4,
        reasons=[None] * 4,
        results=[None] * 4,
        event="event:job.finished",
        now=now,
    )

    assert ended <= 30


@pytest.mark.usefixtures("crowded")
async def test_the_claim_of_an_idle_agent_reads_nothing(server: Server, admin: Principal, clock: FakeClock, db: Database) -> None:
    agent = await an_agent(server, admin, capabilities=("command",))

    read = await rows_read(
        db,
        lease_store._CLAIM_ONE,
        agent_id=agent.agent_id,
        secret_hash=agent.secret_hash,
        own_kinds=["command"],
        now=clock.now(),
        until=clock.now(),
    )

    assert read <= 2
