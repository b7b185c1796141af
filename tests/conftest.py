"""Fixtures for every test: one PostgreSQL per test process, one migrated database, clean rows after each test."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest
import pytest_asyncio
from hypothesis import settings
from litestar import Litestar

from probity import main
from probity.config import Config, load
from probity.kernel.db import Database, execute
from probity.kernel.ids import new_id
from probity.kernel.migrate import migrate
from probity.kernel.principal import CredentialKind, OrgId, Principal, PrincipalKind, UserId, system_principal
from tests import cluster, http_app
from tests.fakes import FakeClock

# A time limit per example measures what else the machine does; the limit per test finds what really hangs.
settings.register_profile("probity", deadline=None)
settings.load_profile("probity")


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


@pytest_asyncio.fixture
async def org(db: Database) -> OrgId:
    """An organization without members."""
    return await _organization(db, "acme")


@pytest_asyncio.fixture
async def other_org(db: Database) -> OrgId:
    """Another organization, whose rows nobody of `org` may see."""
    return await _organization(db, "globex")


@pytest.fixture
def admin(org: OrgId) -> Principal:
    """A person who holds every permission in `org`."""
    return _holder_of_everything(org)


@pytest.fixture
def outsider(other_org: OrgId) -> Principal:
    """A person who holds every permission in `other_org`."""
    return _holder_of_everything(other_org)


class _Everything(frozenset[str]):
    """All permissions, also those that are named after this line was written."""

    def __contains__(self, permission: object) -> bool:
        return isinstance(permission, str)


def _holder_of_everything(org_id: OrgId) -> Principal:
    user_id = UserId(new_id())
    return Principal(
        kind=PrincipalKind.USER,
        actor=f"user:{user_id}",
        display="Ada Admin",
        org_ids=(org_id,),
        active_org=org_id,
        permissions=_Everything(),
        credential=CredentialKind.SESSION_COOKIE,
        role="admin",
        user_id=user_id,
    )


async def _organization(db: Database, slug: str) -> OrgId:
    org_id = OrgId(new_id())
    async with db.transaction(system_principal(org_id)) as tx:
        await execute(tx, "insert into organizations (id, slug, name) values (:id, :slug, :slug)", id=org_id, slug=slug)
    return org_id


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
               and c.relname <> 'schema_migrations'
            """
        )
        statements = "".join(f"delete from {row['name']};" for row in tables)
        await conn.execute(f"set session_replication_role = replica; {statements}")
    finally:
        await conn.close()


@pytest.fixture
def config(pg: cluster.TestDatabase, tmp_path: Path) -> Config:
    """The settings of a development server on the test database, with its data in a temporary directory."""
    return load(
        {
            "PROBITY_ENV": "development",
            "DATABASE_URL": pg.app.reveal(),
            "DATABASE_SYSTEM_URL": pg.system.reveal(),
            "DATABASE_MIGRATION_URL": pg.owner.reveal(),
            "PROBITY_MASTER_KEYS": "bWFzdGVyLWtleS1vZi10aGUtdGVzdHMtMzItYnl0ZXM=",
            "SB_JWT_SECRET": "signing-key-of-the-tests-at-least-32-bytes",
            "PROBITY_DATA_DIR": str(tmp_path),
        }
    )


@pytest.fixture
def callers() -> http_app.TestAuthenticator:
    """Who a test says is calling: `http.get("/…", headers=callers.headers(admin))`."""
    return http_app.TestAuthenticator()


@pytest.fixture
def app(db: Database, config: Config, callers: http_app.TestAuthenticator) -> Litestar:
    """The whole application, not started; `db` cleans its rows afterwards."""
    return main.build(config, authenticators=[callers])


@pytest_asyncio.fixture
async def http(app: Litestar) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the whole application, in process."""
    async with http_app.client_of(app) as client:
        yield client


@pytest.fixture
def live_server(app: Litestar) -> Iterator[str]:
    """The address of the whole application on a real socket, for streams and sockets."""
    with http_app.served(app) as address:
        yield address
