"""The three roles of the application, and databases that belong to them."""

import re
from dataclasses import dataclass
from typing import Final, LiteralString

import asyncpg

from probity.kernel.postgres.cluster import Cluster
from probity.kernel.secret import Secret

OWNER: Final = "probity_owner"
APP: Final = "probity_app"
SYSTEM: Final = "probity_system"
_LOCK: Final = 0x50524F52  # "PROR": processes that share a cluster make its roles one at a time
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
# What tables, sequences and functions made later by the owner allow the other two; row-level security decides about rows.
_DEFAULT_RIGHTS: Final[tuple[tuple[LiteralString, LiteralString], ...]] = (
    ("select, insert, update, delete", "tables"),
    ("usage, select", "sequences"),
    ("execute", "functions"),
)


@dataclass(frozen=True)
class Dsns:
    """The addresses of one database: for migrations, for requests, and for work across organizations."""

    owner: Secret
    app: Secret
    system: Secret


async def create_database(cluster: Cluster, name: str) -> Dsns:
    """Make the roles and the database where they are absent, and return the three addresses. Migrating is the caller's."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a plain database name")
    conn = await asyncpg.connect(cluster.admin_dsn.reveal())
    try:
        await conn.execute("select pg_advisory_lock($1)", _LOCK)
        for role, attribute in ((OWNER, "nobypassrls"), (APP, "nobypassrls"), (SYSTEM, "bypassrls")):
            await _ensure_role(conn, role, attribute, cluster.passwords[role])
        is_new = not await conn.fetchval("select exists (select from pg_database where datname = $1)", name)
        if is_new:
            await conn.execute(f'create database "{name}" owner {OWNER}')
            await conn.execute(f'revoke all on database "{name}" from public')
            await conn.execute(f'grant connect, temporary on database "{name}" to {APP}, {SYSTEM}')
    finally:
        await conn.close()
    # Repeated on every call: a kill between the statements must not leave a database without them.
    await grant_defaults(cluster.dsn(OWNER, name))
    return Dsns(cluster.dsn(OWNER, name), cluster.dsn(APP, name), cluster.dsn(SYSTEM, name))


async def _ensure_role(conn: asyncpg.Connection, role: str, attribute: str, password: Secret) -> None:
    if not await conn.fetchval("select exists (select from pg_roles where rolname = $1)", role):
        # Utility statements take no parameters; the password is made of URL-safe characters by us.
        await conn.execute(f"create role {role} login nosuperuser nocreatedb nocreaterole {attribute} password '{password.reveal()}'")


async def grant_defaults(owner: Secret) -> None:
    """Let the two roles use what the owner will make in this database."""
    await _run_as(owner, [f"alter default privileges grant {rights} on {kind} to {APP}, {SYSTEM}" for rights, kind in _DEFAULT_RIGHTS])


async def revoke_defaults(owner: Secret) -> None:
    """Undo `grant_defaults`: a dump says what each table allows as grants alone, so a restore must start from none."""
    await _run_as(owner, [f"alter default privileges revoke {rights} on {kind} from {APP}, {SYSTEM}" for rights, kind in _DEFAULT_RIGHTS])


async def _run_as(role: Secret, statements: list[str]) -> None:
    conn = await asyncpg.connect(role.reveal())
    try:
        for statement in statements:
            await conn.execute(statement)
    finally:
        await conn.close()
