"""A trail with its sealer, and a superuser who tampers."""

from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from probity.audit.heads import HeadsFile
from probity.audit.sealer import Sealer
from probity.audit.service import AuditService
from probity.kernel.crypto import KeyRing
from probity.kernel.db import Database
from probity.kernel.principal import AgentId, Principal, UserId
from tests.cluster import TestDatabase
from tests.fakes import FakeClock

RING = KeyRing([bytes(range(32))])


class FakeNames:
    """Knows the users and agents that a test puts in."""

    def __init__(self) -> None:
        self.users: dict[UserId, str] = {}
        self.agents: dict[AgentId, str] = {}

    async def user_names(self, principal: Principal, ids: Iterable[UserId]) -> Mapping[UserId, str]:
        return {each: self.users[each] for each in ids if each in self.users}

    async def agent_names(self, principal: Principal, ids: Iterable[AgentId]) -> Mapping[AgentId, str]:
        return {each: self.agents[each] for each in ids if each in self.agents}


@pytest.fixture
def names() -> FakeNames:
    return FakeNames()


@pytest.fixture
def heads(tmp_path: Path) -> HeadsFile:
    return HeadsFile(tmp_path)


@pytest.fixture
def sealer(db: Database, clock: FakeClock, heads: HeadsFile) -> Sealer:
    return Sealer(db, clock, RING, heads)


@pytest.fixture
def audit(db: Database, clock: FakeClock, sealer: Sealer, heads: HeadsFile, names: FakeNames) -> AuditService:
    return AuditService(db, clock, RING, sealer=sealer, heads=heads, names=names)


@pytest_asyncio.fixture
async def tamper(pg: TestDatabase, db: Database) -> AsyncIterator[asyncpg.Connection]:
    """A superuser for whom no trigger fires."""
    conn = await asyncpg.connect(pg.owner.reveal().replace("probity_owner@", "postgres@"))
    await conn.execute("set session_replication_role = replica")
    try:
        yield conn
    finally:
        await conn.close()
