"""Fixtures for every test: one PostgreSQL per test process, one migrated database, clean rows after each test."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from probity.kernel.db import Database
from probity.kernel.migrate import migrate
from tests import cluster
from tests.fakes import FakeClock


@pytest.fixture(scope="session")
def pg_socket() -> Iterator[Path]:
    with cluster.cluster() as socket:
        yield socket


@pytest.fixture(scope="session")
def pg(pg_socket: Path) -> cluster.TestDatabase:
    """One migrated database for all tests of this process."""
    database = cluster.create_database(pg_socket)
    asyncio.run(migrate(database.owner))
    return database


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest_asyncio.fixture
async def db(pg: cluster.TestDatabase) -> AsyncIterator[Database]:
    """A database whose rows are deleted after the test (only what the test wrote; seeded catalogues stay)."""
    database = await Database.open(dsn=pg.app, system_dsn=pg.system)
    try:
        yield database
    finally:
        await database.close()
        await clean(pg)


async def clean(pg: cluster.TestDatabase) -> None:
    """Delete all rows of all tables but the migrations' own, with triggers and foreign keys off for the duration."""
    superuser = pg.owner.reveal().replace("probity_owner@", "postgres@")
    conn = await asyncpg.connect(superuser)
    try:
        tables = await conn.fetch(
            """
            select c.oid::regclass::text as name
              from pg_class c
             where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
               and c.relname not in ('schema_migrations', 'permissions_catalogue')
            """
        )
        statements = "".join(f"delete from {row['name']};" for row in tables)
        await conn.execute(f"set session_replication_role = replica; {statements}")
    finally:
        await conn.close()
