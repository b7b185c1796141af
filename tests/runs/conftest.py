"""The services of runs on the test database."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from probity.dispatch.service import DispatchService
from probity.fleet.service import FleetService
from probity.kernel.db import Database
from probity.kernel.limits import LocalLimiter
from probity.kernel.wakeups import Wakeups
from probity.projects.service import ProjectService
from probity.runs.ingest.service import IngestService
from probity.runs.service import RunService
from tests.fakes import FakeClock


@pytest_asyncio.fixture
async def wakeups(db: Database) -> AsyncIterator[Wakeups]:
    """Not started: this process hears itself, other servers are not there."""
    yield Wakeups(db)


@pytest.fixture
def fleet(db: Database, clock: FakeClock) -> FleetService:
    return FleetService(db, clock, LocalLimiter(clock))


@pytest_asyncio.fixture
async def dispatch(db: Database, clock: FakeClock, fleet: FleetService, wakeups: Wakeups) -> DispatchService:
    return DispatchService(db, clock, fleet, wakeups)


@pytest_asyncio.fixture
async def runs(db: Database, clock: FakeClock, dispatch: DispatchService, fleet: FleetService) -> RunService:
    return RunService(db, clock, dispatch, fleet, ProjectService(db, clock))


@pytest.fixture
def ingest(db: Database, clock: FakeClock) -> IngestService:
    return IngestService(db, clock)
