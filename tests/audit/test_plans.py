"""Listings of a large trail read an index, also under row-level security."""

from datetime import UTC, datetime

import asyncpg
import msgspec
import pytest

from probity.audit import store
from probity.audit.models import INSTALLATION, AuditFilter
from probity.kernel.db import Database, translate
from probity.kernel.principal import Principal


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (AuditFilter(), "audit_events_by_time"),
        (AuditFilter(actor="user:7"), "audit_events_by_actor"),
        (AuditFilter(resource="job:77"), "audit_events_by_resource"),
        (AuditFilter(correlation_id=INSTALLATION), "audit_events_by_correlation"),
        (AuditFilter(action="agent.mint"), "audit_events_by_action"),
        (AuditFilter(action="job.claim"), "audit_events_by_time"),
        (AuditFilter(until=datetime(2026, 1, 1, tzinfo=UTC)), "audit_events_by_time"),
    ],
)
async def test_a_listing_reads_its_index(
    db: Database, admin: Principal, tamper: asyncpg.Connection, wanted: AuditFilter, index: str
) -> None:
    await tamper.execute(
        """
        insert into audit_events (id, org_id, actor, action, resource, correlation_id)
        select gen_random_uuid(), $1, 'user:' || g % 500, case when g % 500 = 0 then 'agent.mint' else 'job.claim' end, 'job:' || g,
               gen_random_uuid()
          from generate_series(1, 20000) g
        """,
        admin.org_id,
    )
    await tamper.execute("analyze audit_events")
    statement, names = translate(store.list_statement(wanted))
    values = {**msgspec.structs.asdict(wanted), "org_id": admin.org_id}

    async with db.transaction(admin) as tx:
        plan = "\n".join(row[0] for row in await tx.conn.fetch("explain " + statement, *[values[name] for name in names]))

    assert index in plan, plan
    assert "Seq Scan on audit_events" not in plan
