"""Recording events: in the transaction, append-only, by organization."""

from uuid import uuid4

import asyncpg
import pytest

from probity.audit import service
from probity.audit.errors import UnsafeMetadata
from probity.audit.models import Action, AuditEventId, Status
from probity.kernel.db import Database, execute, fetch_rows, fetch_value
from probity.kernel.ids import hex24, new_id, parse_id
from probity.kernel.principal import OrgId, system_principal
from probity.kernel.secret import Secret
from tests.cluster import TestDatabase

US = OrgId(new_id())
THEM = OrgId(new_id())
PRINCIPAL = system_principal(US)


async def test_an_event_is_written_with_the_action(db: Database) -> None:
    correlation = uuid4()

    async with db.transaction(PRINCIPAL) as tx:
        event_id = await service.record(
            tx, PRINCIPAL, Action.AGENT_MINT, "agent:1", status=Status.DENIED, correlation_id=correlation, metadata={"name": "a"}
        )
        row = (await fetch_rows(tx, "select * from audit_events"))[0]

    assert dict(row) | {"occurred_at": None} == {
        "id": event_id,
        "org_id": US,
        "occurred_at": None,
        "actor": "system",
        "action": "agent.mint",
        "resource": "agent:1",
        "status": "denied",
        "correlation_id": correlation,
        "metadata": {"name": "a"},
    }


async def test_an_event_goes_with_the_action_that_is_rolled_back(db: Database) -> None:
    with pytest.raises(KeyError):
        async with db.transaction(PRINCIPAL) as tx:
            await service.record(tx, PRINCIPAL, Action.AGENT_MINT, "agent:1")
            raise KeyError

    assert await count(db) == (0, 0)


async def test_an_event_that_cannot_be_written_fails_the_action(db: Database, pg: TestDatabase) -> None:
    owner = await asyncpg.connect(pg.owner.reveal())
    await owner.execute("alter table audit_events add constraint no_more check (false) not valid")
    try:
        with pytest.raises(asyncpg.CheckViolationError):
            async with db.transaction(PRINCIPAL) as tx:
                await execute(tx, "insert into jobs (id, lane, kind, correlation_id) values (:id, 'server', 'x', :id)", id=new_id())
                await service.record(tx, PRINCIPAL, Action.JOB_ENQUEUE, "job:1")
    finally:
        await owner.execute("alter table audit_events drop constraint no_more")
        await owner.close()

    async with db.system() as tx:
        assert await fetch_value(tx, "select count(*) from jobs") == 0


async def test_another_organization_neither_sees_nor_writes_events(db: Database) -> None:
    async with db.transaction(PRINCIPAL) as tx:
        await service.record(tx, PRINCIPAL, Action.AGENT_MINT, "agent:1")

    async with db.transaction(system_principal(THEM)) as tx:
        seen = [await fetch_value(tx, sql) for sql in ("select count(*) from audit_events", "select count(*) from audit_unsealed")]
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.transaction(system_principal(THEM)) as tx:
            await service.record(tx, system_principal(THEM), Action.AGENT_MINT, "agent:1", org_id=US)

    assert seen == [0, 0]


async def test_an_event_of_the_installation_needs_the_system_role(db: Database) -> None:
    nobody = system_principal()
    async with db.system() as tx:
        await service.record(tx, nobody, Action.AUTH_LOGIN, "auth:login", status=Status.DENIED)

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.transaction(nobody) as tx:
            await service.record(tx, nobody, Action.AUTH_LOGIN, "auth:login", status=Status.DENIED)

    assert await count(db) == (1, 1)


@pytest.mark.parametrize("table", ["audit_events", "audit_chain", "audit_checkpoints"])
@pytest.mark.parametrize("statement", ["update {} set org_id = org_id", "delete from {}", "truncate {}"])
@pytest.mark.parametrize("role", ["owner", "app", "system"])
async def test_rows_stay_as_they_were_written(db: Database, pg: TestDatabase, table: str, statement: str, role: str) -> None:
    async with db.transaction(PRINCIPAL) as tx:
        event_id = await service.record(tx, PRINCIPAL, Action.AGENT_MINT, "agent:1")
    async with db.system() as tx:
        await execute(tx, "insert into audit_chain values (:org, 1, :id, sha256(''), sha256(''), sha256(''))", org=US, id=event_id)
        await execute(tx, "insert into audit_checkpoints values (:org, 'head', 1, sha256(''), now(), 'k', '')", org=US)

    connection = await asyncpg.connect(getattr(pg, role).reveal())
    try:
        await connection.execute(f"set probity.org_ids = '{{{US}}}'")
        with pytest.raises((asyncpg.IntegrityConstraintViolationError, asyncpg.InsufficientPrivilegeError)):
            await connection.execute(statement.format(table))
    finally:
        await connection.close()


async def test_the_application_role_cannot_take_an_event_out_of_the_sealers_queue(db: Database) -> None:
    async with db.transaction(PRINCIPAL) as tx:
        await service.record(tx, PRINCIPAL, Action.AGENT_MINT, "agent:1")

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.transaction(PRINCIPAL) as tx:
            await execute(tx, "delete from audit_unsealed")


@pytest.mark.parametrize("metadata", [{"password": Secret("s3cr3t")}, {"text": "x" * 20_000}, {"object": object()}])
async def test_metadata_that_does_not_belong_in_the_trail_fails_the_action(db: Database, metadata: dict[str, object]) -> None:
    with pytest.raises(UnsafeMetadata):
        async with db.transaction(PRINCIPAL) as tx:
            await service.record(tx, PRINCIPAL, Action.AGENT_MINT, "agent:1", metadata=metadata)

    assert await count(db) == (0, 0)


async def test_a_name_with_a_nul_is_still_recorded(db: Database) -> None:
    async with db.transaction(PRINCIPAL) as tx:
        await service.record(tx, PRINCIPAL, Action.AGENT_MINT, "agent:\x00", metadata={"a\x00": ["\x00", {"b": "\x00c"}]})
        row = (await fetch_rows(tx, "select resource, metadata from audit_events"))[0]

    assert row["resource"] == "agent:\N{REPLACEMENT CHARACTER}"
    assert row["metadata"] == {"a\N{REPLACEMENT CHARACTER}": ["\N{REPLACEMENT CHARACTER}", {"b": "\N{REPLACEMENT CHARACTER}c"}]}


async def test_a_statement_of_another_domain_can_record_its_own_event(db: Database) -> None:
    async with db.transaction(PRINCIPAL) as tx:
        rows = await fetch_rows(
            tx,
            """
            with claimed as (
                insert into jobs (id, org_id, lane, kind, correlation_id)
                select id, :org_id, 'agent', 'x', id from unnest(:ids::uuid[]) as id
                returning id, org_id, correlation_id
            )
            insert into audit_events (org_id, actor, action, resource, correlation_id)
            select org_id, 'agent:1', 'job.claim', 'job:' || id, correlation_id from claimed
            returning id
            """,
            org_id=US,
            ids=[new_id(), new_id()],
        )

    assert await count(db) == (2, 2)
    for row in rows:
        assert (row["id"].version, parse_id(AuditEventId, hex24(row["id"]))) == (7, row["id"])


async def count(db: Database) -> tuple[int, int]:
    async with db.system() as tx:
        return await fetch_value(tx, "select count(*) from audit_events"), await fetch_value(tx, "select count(*) from audit_unsealed")
