from uuid import UUID

import asyncpg
import msgspec
import pytest

from probity.kernel.db import Database, OverPrivilegedRole, execute, fetch_all, fetch_one, fetch_value, translate
from probity.kernel.ids import new_id
from probity.kernel.principal import OrgId, system_principal
from tests.cluster import TestDatabase

INSERT = "insert into jobs (id, org_id, lane, kind, correlation_id) values (:id, :org_id, 'agent', 'test', :id)"


class JobRow(msgspec.Struct, frozen=True):
    id: UUID
    payload: dict[str, object]


@pytest.mark.parametrize(
    ("sql", "statement", "names"),
    [
        ("select :a::int, :b, :a", "select $1::int, $2, $1", ("a", "b")),
        (
            "select ':a', \":b\", x -- :c\n /* :d */ from t where y = :e",
            "select ':a', \":b\", x -- :c\n /* :d */ from t where y = $1",
            ("e",),
        ),
        ("select $$ :a $$, $x$ :b $x$, :c", "select $$ :a $$, $x$ :b $x$, $1", ("c",)),
    ],
)
def test_only_names_outside_quotes_and_comments_are_parameters(sql: str, statement: str, names: tuple[str, ...]) -> None:
    assert translate(sql) == (statement, names)


async def test_a_transaction_sees_only_its_own_organizations(db: Database) -> None:
    ours, theirs = OrgId(new_id()), OrgId(new_id())
    for org_id in (ours, theirs):
        async with db.transaction(system_principal(org_id)) as tx:
            await execute(tx, INSERT, id=new_id(), org_id=org_id)

    async with db.transaction(system_principal(ours)) as tx:
        rows = await fetch_all(tx, JobRow, "select id, payload from jobs")
        foreign = await execute(tx, "update jobs set priority = 9 where org_id = :org_id", org_id=theirs)
    async with db.transaction(system_principal()) as tx:
        nothing = await fetch_value(tx, "select count(*) from jobs")

    assert (len(rows), foreign, nothing) == (1, 0, 0)


async def test_a_row_of_another_organization_cannot_be_written(db: Database) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.transaction(system_principal(OrgId(new_id()))) as tx:
            await execute(tx, INSERT, id=new_id(), org_id=OrgId(new_id()))


async def test_an_exception_rolls_everything_back(db: Database) -> None:
    org_id = OrgId(new_id())

    with pytest.raises(KeyError):
        async with db.transaction(system_principal(org_id)) as tx:
            await execute(tx, INSERT, id=new_id(), org_id=org_id)
            raise KeyError

    async with db.system() as tx:
        assert await fetch_one(tx, JobRow, "select id, payload from jobs") is None


async def test_the_server_refuses_a_role_that_can_read_past_the_policy(pg: TestDatabase) -> None:
    for dsn, system in ((pg.owner, pg.system), (pg.system, pg.system), (pg.app, pg.app), (pg.app, pg.owner)):
        with pytest.raises(OverPrivilegedRole):
            await Database.open(dsn=dsn, system_dsn=system)
