"""Builders of the fleet."""

import pytest

from probity.fleet.models import AgentCredential, NewAgent
from probity.fleet.service import FleetService, credential_of
from probity.kernel.db import Database, fetch_rows
from probity.kernel.limits import LocalLimiter
from probity.kernel.principal import Principal
from tests.fakes import FakeClock


@pytest.fixture
def fleet(db: Database, clock: FakeClock) -> FleetService:
    return FleetService(db, clock, LocalLimiter(clock))


async def an_agent(fleet: FleetService, admin: Principal, name: str = "runner-1", **fields: object) -> AgentCredential:
    minted = await fleet.mint(admin, NewAgent(name=name, **fields))  # type: ignore[arg-type]
    return credential_of(minted.id, minted.secret.reveal())


async def trail(db: Database) -> list[tuple[str, str, str, dict[str, object]]]:
    """What the audit trail holds: action, actor, status, metadata, in order."""
    async with db.system() as tx:
        rows = await fetch_rows(tx, "select action, actor, status, metadata from audit_events order by occurred_at, id")
    return [(row["action"], row["actor"], row["status"], row["metadata"]) for row in rows]
