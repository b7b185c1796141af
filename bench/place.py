"""Where benchmarks run: a durable PostgreSQL of their own, a migrated database in it, and one for rivals."""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import asyncpg

from probity.kernel.db import Database, execute
from probity.kernel.ids import new_id
from probity.kernel.migrate import migrate
from probity.kernel.postgres import Cluster, Dsns, create_database, embedded_cluster
from probity.kernel.principal import OrgId, Principal, system_principal

# Said in every section: what the server is allowed, the same for everybody.
SETTINGS: Final = {"shared_buffers": "256MB", "max_wal_size": "4GB", "checkpoint_timeout": "30min", "max_connections": "200"}
DURABILITY: Final = "fsync, full_page_writes and synchronous_commit on; shared_buffers 256 MB, max_wal_size 4 GB"


@dataclass(frozen=True)
class Place:
    """One migrated database per benchmark; `rival_dsn` is the superuser on an empty database of the same server."""

    cluster: Cluster
    dsns: Dsns
    rival_dsn: str
    version: str

    async def organization(self, slug: str) -> OrgId:
        """Make an organization."""
        org_id = OrgId(new_id())
        async with self.database() as db, db.transaction(system_principal(org_id)) as tx:
            await execute(tx, "insert into organizations (id, slug, name) values (:id, :slug, :slug)", id=org_id, slug=slug)
        return org_id

    @asynccontextmanager
    async def database(self, *, pool_size: int = 10, system_pool_size: int = 4) -> AsyncIterator[Database]:
        """Open the database as a server does, with the sizes that are the server's defaults."""
        db = await Database.open(dsn=self.dsns.app, system_dsn=self.dsns.system, pool_size=pool_size, system_pool_size=system_pool_size)
        try:
            yield db
        finally:
            await db.close()

    async def admin(self, sql: str, *, database: str | None = None) -> None:
        """Run a statement as superuser, outside the measured time."""
        conn = await asyncpg.connect(self.cluster.dsn("postgres", database or self.name).reveal())
        try:
            await conn.execute(sql)
        finally:
            await conn.close()

    @property
    def name(self) -> str:
        return unquote(urlsplit(self.dsns.app.reveal()).path.lstrip("/"))

    def pgbench(self, script: str, *, clients: int, seconds: int) -> float | None:
        """Run a statement by PostgreSQL's own benchmark, prepared, and return transactions per second; None without the program."""
        program = shutil.which("pgbench")
        if program is None:
            return None
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
            file.write(script)
            file.flush()
            dsn = self.cluster.dsn("postgres", self.name).reveal()
            options = ["-n", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, 2)), "-T", str(seconds), "-f", file.name]
            text = subprocess.run([program, *options, dsn], capture_output=True, text=True, check=True).stdout
        # It prints no rate when not one transaction came through.
        rates = [float(line.split()[2]) for line in text.splitlines() if line.startswith("tps = ")]
        return rates[0] if rates else 0.0


@asynccontextmanager
async def place(name: str) -> AsyncIterator[Place]:
    """Start PostgreSQL for one benchmark; everything is gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="probity-bench-"))
    try:
        with embedded_cluster(root / "pg", settings=SETTINGS) as cluster:
            dsns = await create_database(cluster, f"bench_{name}")
            await migrate(dsns.owner)
            conn = await asyncpg.connect(cluster.admin_dsn.reveal())
            await conn.execute("create database rival")
            version = await conn.fetchval("show server_version")
            await conn.close()
            yield Place(cluster, dsns, cluster.dsn("postgres", "rival").reveal(), version)
    finally:
        await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)


def all_powerful(org_id: OrgId) -> Principal:
    """Return a caller who may do everything that benchmarks set up."""
    permissions = frozenset({"agent.mint", "agent.list", "agent.revoke", "jobs:create", "runs:read", "runs:write", "runs:execute"})
    return Principal(kind=system_principal(org_id).kind, actor="system", org_ids=(org_id,), active_org=org_id, permissions=permissions)
