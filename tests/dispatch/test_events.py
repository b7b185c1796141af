"""Whoever subscribes hears of the end of a job, by whichever statement it ended."""

import pytest

from probity.dispatch.events import JobFinished
from probity.dispatch.tasks import SweepLeases, sweep_leases
from probity.kernel.events import Subscription
from probity.kernel.ids import new_id
from probity.kernel.principal import Principal
from probity.kernel.queue import JobState
from probity.kernel.tasks import TaskContext, TaskRunner
from tests.dispatch.conftest import FAILED, HERE, Server, a_job, an_agent, claim
from tests.fakes import FakeClock


@pytest.mark.parametrize("ending", ["completed", "cancelled", "expired"])
async def test_a_subscriber_hears_of_the_end_once(server: Server, admin: Principal, clock: FakeClock, ending: str) -> None:
    heard: list[JobFinished] = []

    async def hear(event: JobFinished, ctx: TaskContext) -> None:
        assert ctx.org_id == admin.org_id
        heard.append(event)

    runner = TaskRunner(server.db, clock, {}, subscriptions=[Subscription(JobFinished, "test", hear)])
    agent, run_id = await an_agent(server, admin), new_id()
    job_id = await a_job(server, admin, run_id=run_id)
    if ending == "cancelled":
        await server.dispatch.cancel(admin, job_id)
    else:
        await claim(server, agent)
        await a_job(server, admin)
    if ending == "completed":
        await server.dispatch.complete(agent, job_id, FAILED, address=HERE)
    if ending == "expired":
        clock.advance(61)
        await sweep_leases(SweepLeases(), TaskContext(new_id(), None, new_id(), 1, 1, server.db, clock))

    await runner.drain()
    await runner.drain()

    state, reason = {
        "completed": (JobState.FAILED, "exit_code"),
        "cancelled": (JobState.CANCELLED, "cancelled"),
        "expired": (JobState.EXPIRED, "lease_expired"),
    }[ending]
    assert heard == [JobFinished(job_id, admin.org_id, run_id, None, state, reason)]
