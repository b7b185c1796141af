"""Leases: what happens when agents stop renewing; single cases, and a state machine against a model."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from probity.dispatch.errors import JobNotOwned
from probity.dispatch.models import CONTRACT_KINDS, JobId
from probity.dispatch.tasks import SweepLeases, sweep_leases
from probity.fleet.models import AgentCredential
from probity.kernel.db import Database, fetch_rows
from probity.kernel.ids import new_id
from probity.kernel.principal import Principal
from probity.kernel.queue import JobState
from probity.kernel.tasks import TaskContext
from tests import conftest
from tests.cluster import TestDatabase
from tests.dispatch.conftest import FAILED, HERE, SUCCEEDED, Server, a_job, an_agent, claim
from tests.fakes import FakeClock
from tests.fleet.conftest import trail


async def sweep(db: Database, clock: FakeClock) -> None:
    await sweep_leases(SweepLeases(), TaskContext(new_id(), None, new_id(), 1, 1, db, clock))


async def test_a_job_whose_lease_is_over_goes_to_the_next_claimer(server: Server, admin: Principal, clock: FakeClock) -> None:
    """Scenario 22 of the contract."""
    first, second = await an_agent(server, admin, "first"), await an_agent(server, admin, "second")
    job_id = await a_job(server, admin)
    assert await claim(server, first) == job_id
    clock.advance(29)
    assert await claim(server, second) is None
    clock.advance(2)

    assert await claim(server, second) == job_id

    with pytest.raises(JobNotOwned, match="job not owned by this agent"):
        await server.dispatch.complete(first, job_id, SUCCEEDED, address=HERE)
    await server.dispatch.complete(second, job_id, SUCCEEDED, address=HERE)
    await server.dispatch.complete(second, job_id, SUCCEEDED, address=HERE)


async def test_a_renewed_lease_lasts_and_a_late_holder_keeps_the_job_nobody_took(
    server: Server, admin: Principal, clock: FakeClock, db: Database
) -> None:
    agent = await an_agent(server, admin, capabilities=("command",))
    job_id = await a_job(server, admin, kind="command")
    await claim(server, agent)
    for _ in range(3):
        clock.advance(20)
        renewal = await server.dispatch.renew(agent, job_id, address=HERE)
        assert (renewal.claim_expires_at - clock.now()).total_seconds() == 30
        assert not renewal.cancel

    clock.advance(100)
    await sweep(db, clock)
    assert (await server.dispatch.get_job(admin, job_id)).state is JobState.QUEUED
    await server.dispatch.renew(agent, job_id, address=HERE)
    await server.dispatch.complete(agent, job_id, SUCCEEDED, address=HERE)

    job = await server.dispatch.get_job(admin, job_id)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)


@pytest.mark.parametrize(
    ("fields", "state", "reason"),
    [
        ({"kind": "command", "max_attempts": 1}, JobState.FAILED, "lease_expired"),
        ({"kind": "command", "max_attempts": 2}, JobState.FAILED, "attempts_exhausted"),
        ({"kind": "verify"}, JobState.EXPIRED, "lease_expired"),
    ],
)
async def test_a_job_whose_agents_vanish_ends_with_a_reason_and_its_run_hears_of_it(
    server: Server, admin: Principal, clock: FakeClock, db: Database, fields: dict[str, Any], state: JobState, reason: str
) -> None:
    agent = await an_agent(server, admin, capabilities=("command",) if fields["kind"] == "command" else ())
    run_id = new_id()
    job_id = await a_job(server, admin, run_id=run_id, **fields)
    for _ in range(fields.get("max_attempts", 1)):
        assert await claim(server, agent) == job_id
        clock.advance(61)
        await sweep(db, clock)

    job = await server.dispatch.get_job(admin, job_id)
    assert (job.state, job.reason_code) == (state, reason)
    assert (await trail(db))[-1][:3] == ("job.expire", "system", "failure")
    async with db.system() as tx:
        events = await fetch_rows(tx, "select payload from jobs where kind = 'event:job.finished'")
    assert [row["payload"] for row in events] == [
        {
            "job_id": str(job_id),
            "org_id": str(admin.org_id),
            "run_id": str(run_id),
            "request_id": None,
            "state": state.value,
            "reason_code": reason,
        }
    ]
    if state is JobState.EXPIRED:
        with pytest.raises(JobNotOwned):
            await server.dispatch.complete(agent, job_id, SUCCEEDED, address=HERE)


async def test_a_held_job_is_cancelled_through_its_agent(server: Server, admin: Principal, clock: FakeClock, db: Database) -> None:
    agent = await an_agent(server, admin, capabilities=("command",))
    stopped, finished, vanished = [await a_job(server, admin, kind="command") for _ in range(3)]
    for job_id in (stopped, finished, vanished):
        assert await claim(server, agent) == job_id
        assert (await server.dispatch.cancel(admin, job_id)).state is JobState.CLAIMED
        assert (await server.dispatch.renew(agent, job_id, address=HERE)).cancel

    await server.dispatch.complete(agent, stopped, FAILED, address=HERE)
    await server.dispatch.complete(agent, finished, SUCCEEDED, address=HERE)
    clock.advance(31)
    assert await claim(server, agent) is None
    await sweep(db, clock)

    states = [(await server.dispatch.get_job(admin, job_id)).state for job_id in (stopped, finished, vanished)]
    assert states == [JobState.CANCELLED, JobState.SUCCEEDED, JobState.CANCELLED]
    assert (await server.dispatch.cancel(admin, finished)).state is JobState.SUCCEEDED


async def test_a_job_that_outlives_its_time_limit_is_told_to_stop(server: Server, admin: Principal, clock: FakeClock) -> None:
    agent = await an_agent(server, admin)
    job_id = await a_job(server, admin, timeout_s=10)
    await claim(server, agent)
    clock.advance(39)
    assert not (await server.dispatch.renew(agent, job_id, address=HERE)).cancel
    clock.advance(2)
    assert (await server.dispatch.renew(agent, job_id, address=HERE)).cancel


async def test_a_cancelled_waiting_job_is_never_claimed(server: Server, admin: Principal, db: Database) -> None:
    agent = await an_agent(server, admin)
    job_id = await a_job(server, admin, run_id=new_id())

    assert (await server.dispatch.cancel(admin, job_id)).state is JobState.CANCELLED
    await server.dispatch.cancel(admin, job_id)

    assert await claim(server, agent) is None
    assert [action for action, _, _, _ in await trail(db)].count("job.cancel") == 1
    async with db.system() as tx:
        assert len(await fetch_rows(tx, "select from jobs where kind = 'event:job.finished'")) == 1


@dataclass
class ModelJob:
    """What the rules say about one job."""

    kind: str
    max_attempts: int
    state: str = "queued"
    holder: int | None = None
    expires: datetime | None = None
    attempt: int = 0
    cancelled: bool = False

    @property
    def is_contract(self) -> bool:
        return self.kind in CONTRACT_KINDS

    def is_over(self, now: datetime, grace_s: float = 0) -> bool:
        return self.state == "claimed" and self.expires is not None and self.expires + timedelta(seconds=grace_s) <= now


class Leases(RuleBasedStateMachine):
    """Two agents of our own, one of the contract; jobs of both kinds; time moves. After each step database and model agree."""

    def __init__(self, pg: TestDatabase) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = FakeClock()
        self.jobs: dict[JobId, ModelJob] = {}
        self.run(self.start(pg))

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    async def start(self, pg: TestDatabase) -> None:
        self.db = await Database.open(dsn=pg.app, system_dsn=pg.system, pool_size=2, system_pool_size=2)
        self.server = Server(self.db, self.clock)
        self.admin = conftest._holder_of_everything(await conftest._organization(self.db, f"org-{new_id().hex}"))
        self.agents: list[AgentCredential] = [
            await an_agent(self.server, self.admin, f"agent-{n}", capabilities=() if n == 2 else ("command",)) for n in range(3)
        ]

    def teardown(self) -> None:
        self.run(self.db.close())
        self.runner.close()

    def takes(self, agent: int, job: ModelJob) -> bool:
        return job.is_contract == (agent == 2)

    def waiting(self, agent: int) -> list[JobId]:
        return [job_id for job_id, job in self.jobs.items() if job.state == "queued" and self.takes(agent, job)]

    @rule(kind=st.sampled_from(["command", "read"]), max_attempts=st.integers(1, 3))
    def enqueue(self, kind: str, max_attempts: int) -> None:
        job_id = self.run(a_job(self.server, self.admin, kind=kind, max_attempts=max_attempts))
        self.jobs[job_id] = ModelJob(kind, 1000 if kind == "read" else max_attempts)
        self.clock.advance(0.001)

    @rule(seconds=st.sampled_from([1, 10, 29, 30, 31, 61]))
    def advance(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(agent=st.integers(0, 2))
    def claim(self, agent: int) -> None:
        if not self.waiting(agent):
            for job in self.jobs.values():
                if job.is_over(self.clock.now()) and job.attempt < job.max_attempts and not job.cancelled:
                    job.state = "queued"
        waiting = self.waiting(agent)

        claimed = self.run(claim(self.server, self.agents[agent]))

        assert claimed == (waiting[0] if waiting else None)
        if claimed:
            job = self.jobs[claimed]
            job.state, job.holder, job.attempt = "claimed", agent, job.attempt + 1
            job.expires = self.clock.now() + timedelta(seconds=30)

    def holds(self, agent: int, job: ModelJob) -> bool:
        return job.holder == agent and job.state in ("claimed", "queued")

    @precondition(lambda self: self.jobs)
    @rule(agent=st.integers(0, 2), which=st.data())
    def renew(self, agent: int, which: st.DataObject) -> None:
        job_id = which.draw(st.sampled_from(list(self.jobs)))
        job = self.jobs[job_id]
        call = self.server.dispatch.renew(self.agents[agent], job_id, address=HERE)
        if self.holds(agent, job):
            assert self.run(call).cancel == job.cancelled
            job.state, job.expires = "claimed", self.clock.now() + timedelta(seconds=30)
        else:
            with pytest.raises(JobNotOwned):
                self.run(call)

    @precondition(lambda self: self.jobs)
    @rule(agent=st.integers(0, 2), well=st.booleans(), which=st.data())
    def complete(self, agent: int, well: bool, which: st.DataObject) -> None:
        job_id = which.draw(st.sampled_from(list(self.jobs)))
        job = self.jobs[job_id]
        call = self.server.dispatch.complete(self.agents[agent], job_id, SUCCEEDED if well else FAILED, address=HERE)
        if self.holds(agent, job):
            self.run(call)
            job.state = "succeeded" if well else "cancelled" if job.cancelled else "failed"
        elif job.state in ("succeeded", "failed", "cancelled"):
            self.run(call)
        else:
            with pytest.raises(JobNotOwned):
                self.run(call)

    @precondition(lambda self: self.jobs)
    @rule(which=st.data())
    def cancel(self, which: st.DataObject) -> None:
        job_id = which.draw(st.sampled_from(list(self.jobs)))
        self.run(self.server.dispatch.cancel(self.admin, job_id))
        job = self.jobs[job_id]
        if job.state == "queued":
            job.state = "cancelled"
        elif job.state == "claimed":
            job.cancelled = True

    @rule()
    def sweep(self) -> None:
        self.run(sweep(self.db, self.clock))
        now = self.clock.now()
        for job in self.jobs.values():
            if not job.is_over(now):
                continue
            if job.cancelled:
                job.state = "cancelled"
            elif job.is_contract:
                job.state = "expired" if job.is_over(now, 30) else job.state
            else:
                job.state = "queued" if job.attempt < job.max_attempts else "failed"

    @rule(agent=st.integers(0, 2), seconds=st.sampled_from([31, 61]))
    def vanish(self, agent: int, seconds: int) -> None:
        """What chance alone brings about too seldom: an agent takes a job and is never heard of again."""
        self.claim(agent)
        self.advance(seconds)
        self.sweep()

    @invariant()
    def database_and_model_agree(self) -> None:
        stored = self.run(self.stored())
        assert stored == {job_id: (job.state, job.attempt) for job_id, job in self.jobs.items()}

    async def stored(self) -> dict[Any, Any]:
        async with self.db.transaction(self.admin) as tx:
            rows = await fetch_rows(
                tx, "select id, state, attempt from jobs where org_id = :org_id and lane = 'agent'", org_id=self.admin.org_id
            )
        return {row["id"]: (row["state"], row["attempt"]) for row in rows}


def test_leases_follow_the_model(pg: TestDatabase) -> None:
    try:
        run_state_machine_as_test(
            lambda: Leases(pg),  # type: ignore[arg-type]  # a factory is accepted too
            settings=settings(max_examples=20, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)),
        )
    finally:
        asyncio.run(conftest.clean(pg))
