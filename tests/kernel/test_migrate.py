import asyncio
from pathlib import Path

import asyncpg
import pytest

from probity.kernel.migrate import MigrationChanged, migrate, migrations_directory, pending
from tests import cluster


@pytest.fixture
def empty(pg_socket: Path) -> cluster.TestDatabase:
    return cluster.create_database(pg_socket)


def test_a_second_run_finds_nothing_to_do(empty: cluster.TestDatabase) -> None:
    first = asyncio.run(migrate(empty.owner))

    assert first == [path.name for path in sorted(migrations_directory().glob("[0-9]*.sql"))]
    assert asyncio.run(migrate(empty.owner)) == []
    assert asyncio.run(pending(empty.owner)) == []


def test_servers_that_start_together_migrate_once(empty: cluster.TestDatabase) -> None:
    async def together() -> list[list[str]]:
        return list(await asyncio.gather(*(migrate(empty.owner) for _ in range(4))))

    assert sorted(len(names) for names in asyncio.run(together()))[:3] == [0, 0, 0]


def test_an_edited_migration_is_refused(empty: cluster.TestDatabase, tmp_path: Path) -> None:
    path = tmp_path / "0001_first.sql"
    path.write_text("create table first (id int);")
    asyncio.run(migrate(empty.owner, tmp_path))
    path.write_text("create table first (id bigint);")

    with pytest.raises(MigrationChanged, match="0001_first"):
        asyncio.run(migrate(empty.owner, tmp_path))


def test_a_failing_migration_leaves_nothing_behind(empty: cluster.TestDatabase, tmp_path: Path) -> None:
    (tmp_path / "0001_first.sql").write_text("create table first (id int); select 1 / 0;")

    with pytest.raises(asyncpg.DivisionByZeroError):
        asyncio.run(migrate(empty.owner, tmp_path))

    assert asyncio.run(pending(empty.owner, tmp_path)) == ["0001_first.sql"]
