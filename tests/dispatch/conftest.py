"""Builders of dispatch."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from probity.dispatch.models import Completion, CompletionStatus, JobId, NewJob
from probity.dispatch.service import DispatchService
from probity.fleet.models import AgentCredential, NewAgent
from probity.fleet.service import FleetService, credential_of
from probity.kernel.db import Database
from probity.kernel.limits import LocalLimiter
from probity.kernel.principal import Principal
from probity.kernel.wakeups import Wakeups
from tests.cluster import TestDatabase
from tests.fakes import FakeClock

HERE = "192.0.2.1"
SUCCEEDED = Completion(status=CompletionStatus.SUCCEEDED)
FAILED = Completion(status=CompletionStatus.FAILED, error="it broke", reason_code="exit_code")


class Server:
    """What one server process has: its own connections and services."""

    def __init__(self, db: Database, clock: FakeClock, **options: float) -> None:
        self.db = db
        self.wakeups = Wakeups(db, tick_s=0.005)
        self.fleet = FleetService(db, clock, LocalLimiter(clock))
        self.dispatch = DispatchService(db, clock, self.fleet, self.wakeups, **options)  # type: ignore[arg-type]


@pytest.fixture
def server(db: Database, clock: FakeClock) -> Server:
    return Server(db, clock)


@pytest.fixture
def dispatch(server: Server) -> DispatchService:
    return server.dispatch


@pytest_asyncio.fixture
async def other_server(pg: TestDatabase, clock: FakeClock) -> AsyncIterator[Server]:
    """A second server on the same database."""
    database = await Database.open(dsn=pg.app, system_dsn=pg.system)
    yield Server(database, clock)
    await database.close()


async def an_agent(server: Server, admin: Principal, name: str = "runner-1", **fields: object) -> AgentCredential:
    minted = await server.fleet.mint(admin, NewAgent(name=name, **fields))  # type: ignore[arg-type]
    return credential_of(minted.id, minted.secret.reveal())


async def a_job(server: Server, admin: Principal, kind: str = "verify", **fields: object) -> JobId:
    return (await server.dispatch.enqueue_job(admin, NewJob(kind=kind, **fields))).id  # type: ignore[arg-type]


async def claim(server: Server, agent: AgentCredential) -> JobId | None:
    job = await server.dispatch.claim(agent, address=HERE)
    return None if job is None else job.id
