"""Forward-only migrations: numbered plain SQL files, each in its own transaction, under one advisory lock."""

import hashlib
from pathlib import Path
from typing import Final

import asyncpg
import structlog

from probity.kernel.secret import Secret

_LOCK: Final = 0x50524F42  # "PROB"
log = structlog.get_logger(__name__)


class MigrationChanged(Exception):
    """A file that was applied earlier reads differently now; applied migrations are history."""


def migrations_directory() -> Path:
    """Return where the SQL files are: inside the installed package, or at the root of a checkout."""
    packaged = Path(__file__).parents[1] / "_migrations"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "migrations"


async def migrate(dsn: Secret, directory: Path | None = None) -> list[str]:
    """Apply what is missing and return the names of the files that were applied, in order.

    Safe to run from several servers at once: the others wait, then find nothing to do. A file whose first line is
    `-- no transaction` runs statement by statement outside a transaction (`create index concurrently`).

    Raises:
        MigrationChanged: an applied file was edited.
    """
    conn = await asyncpg.connect(dsn.reveal(), server_settings={"application_name": "probity-migrate"})
    try:
        await conn.execute("select pg_advisory_lock($1)", _LOCK)
        await conn.execute(
            """
            create table if not exists schema_migrations (
                name text primary key,
                sha256 text not null,
                applied_at timestamptz not null default now()
            )
            """
        )
        done = {row["name"]: row["sha256"] for row in await conn.fetch("select name, sha256 from schema_migrations")}
        applied: list[str] = []
        for path in sorted((directory or migrations_directory()).glob("[0-9]*.sql")):
            await _apply(conn, path, done, applied)
        return applied
    finally:
        await conn.close()


async def pending(dsn: Secret, directory: Path | None = None) -> list[str]:
    """Return the names of files that were not applied yet, in order."""
    conn = await asyncpg.connect(dsn.reveal())
    try:
        if await conn.fetchval("select to_regclass('public.schema_migrations')") is None:
            done: set[str] = set()
        else:
            done = {row["name"] for row in await conn.fetch("select name from schema_migrations")}
    finally:
        await conn.close()
    return [path.name for path in sorted((directory or migrations_directory()).glob("[0-9]*.sql")) if path.name not in done]


async def _apply(conn: asyncpg.Connection, path: Path, done: dict[str, str], applied: list[str]) -> None:
    sql = path.read_text(encoding="utf-8")
    digest = hashlib.sha256(sql.encode()).hexdigest()
    if path.name in done:
        if done[path.name] != digest:
            raise MigrationChanged(f"{path.name} was applied in another form; restore the file or add a new migration")
        return
    if sql.startswith("-- no transaction"):
        for statement in sql.split(";\n"):
            if statement.strip():
                await conn.execute(statement)
        await _note(conn, path.name, digest)
    else:
        async with conn.transaction():
            await conn.execute(sql)
            await _note(conn, path.name, digest)
    applied.append(path.name)
    log.info("database.migrated", name=path.name)


async def _note(conn: asyncpg.Connection, name: str, digest: str) -> None:
    await conn.execute("insert into schema_migrations (name, sha256) values ($1, $2)", name, digest)
