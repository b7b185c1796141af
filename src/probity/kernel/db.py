"""PostgreSQL: two pools, transactions under row-level security, named parameters, rows as structs.

The application's pool (`probity_app`) sees only rows of the organizations that a transaction was opened for. The system pool
(`probity_system`) bypasses row-level security; only store functions named `..._all_tenants` may ask for it, and an architecture test
lists them.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, LiteralString, TypeVar
from uuid import UUID

import asyncpg
import msgspec
from asyncpg.pool import PoolConnectionProxy

from probity.kernel.errors import Invalid, ProbityError, Unavailable
from probity.kernel.principal import OrgId, Principal
from probity.kernel.secret import Secret

T = TypeVar("T")
Connection = asyncpg.Connection | PoolConnectionProxy
CommitListener = Callable[[str, str], None]

# A quoted text, a quoted name, a comment or a dollar-quoted body is copied; `::` is a cast; `:name` is a parameter.
_TOKEN: Final = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|::|:=|:(?P<name>[a-zA-Z_]\w*)", re.DOTALL
)
_ACQUIRE_TIMEOUT_S: Final = 15.0
_NATIVE: Final = (UUID, datetime, date, time, timedelta, Decimal, bytes, bytearray, memoryview)
_LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    ConnectionError,
)
_FULL: Final = (asyncpg.DiskFullError, asyncpg.OutOfMemoryError, asyncpg.InsufficientResourcesError)

_UNHOLDABLE: Final = (asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError, asyncpg.NumericValueOutOfRangeError)


class DatabaseAway(Unavailable):
    code = "database_away"


class StorageFull(Unavailable):
    code = "storage_full"


class Unholdable(Invalid):
    """PostgreSQL's text holds every character but NUL, and its numbers end somewhere; both arrive in well-formed JSON."""

    code = "unholdable"


class OverPrivilegedRole(Exception):
    """The application's database role could read past row-level security, so the server must not start with it."""


class Tx:
    """One open transaction. Functions that take one join it and never commit."""

    __slots__ = ("conn", "touched")

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.touched: set[tuple[str, str]] = set()

    def touch(self, channel: str, key: str = "") -> None:
        """Say that this transaction changes something others wait for; they hear of it after the commit (`Database.on_commit`)."""
        self.touched.add((channel, key))


class _PooledConnection(asyncpg.Connection):
    """A connection without a reset query: nothing here leaves session state behind (LISTEN and session locks are dedicated)."""

    def get_reset_query(self) -> str:
        return ""


class Database:
    def __init__(self, app: asyncpg.Pool, system: asyncpg.Pool, system_dsn: Secret) -> None:
        self._app = app
        self._system = system
        self._system_dsn = system_dsn
        self._listeners: list[CommitListener] = []

    @classmethod
    async def open(
        cls,
        *,
        dsn: Secret,
        system_dsn: Secret,
        pool_size: int = 10,
        system_pool_size: int = 4,
        connect_timeout_s: float = 10.0,
        statement_timeout_s: float = 30.0,
    ) -> "Database":
        """Open both pools and check what the roles may do.

        Raises:
            OverPrivilegedRole: the application's role is owner, superuser or bypasses row-level security, or the system role cannot
                bypass it.
            DatabaseAway: PostgreSQL does not answer.
        """
        settings = {"application_name": "probity", "jit": "off", "statement_timeout": str(int(statement_timeout_s * 1000))}
        pools: list[asyncpg.Pool] = []
        try:
            # The system role runs few statements often, over batches of many sizes: planning one takes longer than running it.
            system_settings = settings | {"plan_cache_mode": "force_generic_plan"}
            for role_dsn, size, server_settings in ((dsn, pool_size, settings), (system_dsn, system_pool_size, system_settings)):
                pool = await asyncpg.create_pool(
                    role_dsn.reveal(),
                    min_size=1,
                    max_size=size,
                    timeout=connect_timeout_s,
                    connection_class=_PooledConnection,
                    init=_prepare_connection,
                    server_settings=server_settings,
                    max_inactive_connection_lifetime=300.0,
                )
                pools.append(pool)
            async with pools[0].acquire() as app, pools[1].acquire() as system:
                await _check_roles(app, system)
        except (*_LOST, OSError, TimeoutError) as error:
            await _close_pools(pools)
            raise DatabaseAway("the database does not answer; check DATABASE_URL and that PostgreSQL runs") from error
        except BaseException:
            await _close_pools(pools)
            raise
        return cls(pools[0], pools[1], system_dsn)

    @asynccontextmanager
    async def transaction(self, principal: Principal) -> AsyncIterator[Tx]:
        """Open a transaction that sees the rows of `principal`'s organizations and no others."""
        async with _transaction(self._app, f"begin; set local probity.org_ids = '{_array_literal(principal.org_ids)}'") as tx:
            yield tx
        self._announce(tx)

    @asynccontextmanager
    async def system(self) -> AsyncIterator[Tx]:
        """Open a transaction that sees every organization. Only for store functions named `..._all_tenants`."""
        async with _transaction(self._system, "begin") as tx:
            yield tx
        self._announce(tx)

    @asynccontextmanager
    async def system_connection(self) -> AsyncIterator[Tx]:
        """Borrow a system connection without a transaction, for hot paths that are one statement."""
        with _translated():
            async with _borrow(self._system) as conn:
                tx = Tx(conn)
                yield tx
        self._announce(tx)

    def on_commit(self, listener: "CommitListener") -> None:
        """Call `listener(channel, key)` after each commit for all that the transaction touched. It must not block or raise."""
        self._listeners.append(listener)

    def _announce(self, tx: Tx) -> None:
        for channel, key in tx.touched:
            for listener in self._listeners:
                listener(channel, key)

    async def dedicated(self) -> asyncpg.Connection:
        """Open a connection of the system role outside the pool, for LISTEN and session locks. The caller closes it."""
        with _translated():
            conn = await asyncpg.connect(self._system_dsn.reveal(), timeout=10, server_settings={"application_name": "probity-listen"})
            await _prepare_connection(conn)
            return conn

    async def ping(self) -> None:
        """Raise DatabaseAway unless PostgreSQL answers."""
        with _translated():
            try:
                async with self._app.acquire(timeout=2) as conn:
                    await conn.fetchval("select 1", timeout=2)
            except TimeoutError as error:
                raise DatabaseAway("the database does not answer") from error

    async def close(self) -> None:
        await _close_pools([self._app, self._system])


async def fetch_all(tx: Tx, kind: type[T], sql: LiteralString, /, **params: object) -> list[T]:
    """Return every row, decoded into `kind` (a struct whose fields are the columns)."""
    rows = await fetch_rows(tx, sql, **params)
    return [_decode(row, kind) for row in rows]


async def fetch_one(tx: Tx, kind: type[T], sql: LiteralString, /, **params: object) -> T | None:
    """Return the first row decoded into `kind`, or None."""
    statement, names = translate(sql)
    row = await tx.conn.fetchrow(statement, *[params[name] for name in names])
    return None if row is None else _decode(row, kind)


async def fetch_value(tx: Tx, sql: LiteralString, /, **params: object) -> Any:
    """Return the first column of the first row, or None."""
    statement, names = translate(sql)
    return await tx.conn.fetchval(statement, *[params[name] for name in names])


async def fetch_rows(tx: Tx, sql: LiteralString, /, **params: object) -> list[asyncpg.Record]:
    """Return raw rows, for statements whose columns are not a model."""
    statement, names = translate(sql)
    return await tx.conn.fetch(statement, *[params[name] for name in names])


async def execute(tx: Tx, sql: LiteralString, /, **params: object) -> int:
    """Run a statement and return how many rows it touched (0 for statements that touch none)."""
    statement, names = translate(sql)
    status = await tx.conn.execute(statement, *[params[name] for name in names])
    count = status.rpartition(" ")[2]
    return int(count) if count.isdigit() else 0


def containing(text: str) -> str:
    """Return the `like` pattern that matches anything with `text` inside, whatever characters it has."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


@lru_cache(maxsize=4096)
def translate(sql: str) -> tuple[str, tuple[str, ...]]:
    """Turn `:name` parameters into `$1, $2, …` and return the statement with the names in that order."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        name = match["name"]
        if name is None:
            return match[0]
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return _TOKEN.sub(number, sql), tuple(names)


def translate_error(error: BaseException) -> ProbityError | None:
    """Return the domain error for a database that is away or full, or that cannot hold what a caller sent; None for anything else."""
    if isinstance(error, _UNHOLDABLE) or (isinstance(error, asyncpg.DataError) and isinstance(error.__cause__, OverflowError)):
        return Unholdable("the text has a character, or a number a size, that cannot be stored (NUL, for one)")
    if isinstance(error, _FULL):
        return StorageFull("the server's storage is full; nothing was written. Free space and try again")
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate == "25006":
        return DatabaseAway("the database is read-only at the moment; try again")
    if isinstance(error, _LOST) or (isinstance(error, asyncpg.InterfaceError) and "clos" in str(error)):
        return DatabaseAway("the database is away; try again")
    if isinstance(error, asyncpg.InternalClientError) and "cannot switch to state" in str(error):
        # The server's last words (it is being shut down) were still unread on this connection.
        return DatabaseAway("the database is away; try again")
    return None


class _translated:  # noqa: N801  (reads as a word in `with _translated():`)
    """Turn driver errors that mean "away" or "full" into domain errors that a client understands."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and (translated := translate_error(error)) is not None:
            raise translated from error


@asynccontextmanager
async def _transaction(pool: asyncpg.Pool, begin: str) -> AsyncIterator[Tx]:
    with _translated():
        async with _borrow(pool) as conn:
            await conn.execute(begin)
            try:
                yield Tx(conn)
            except BaseException:
                if not conn.is_closed():
                    await conn.execute("rollback")
                raise
            await conn.execute("commit")


@asynccontextmanager
async def _borrow(pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    try:
        conn = await pool.acquire(timeout=_ACQUIRE_TIMEOUT_S)
    except TimeoutError as error:
        raise DatabaseAway("no database connection became free in time; try again") from error
    except OSError as error:
        # Only while connecting: a missing socket or a refused port is the database's, any other OSError may be the caller's.
        raise DatabaseAway("the database is away; try again") from error
    try:
        yield conn
    finally:
        await pool.release(conn)


async def _prepare_connection(conn: Connection) -> None:
    for name in ("json", "jsonb"):
        await conn.set_type_codec(
            name, schema="pg_catalog", encoder=lambda value: msgspec.json.encode(value).decode(), decoder=msgspec.json.decode
        )


async def _check_roles(app: Connection, system: Connection) -> None:
    role = await app.fetchrow(
        """
        select r.rolname, r.rolsuper, r.rolbypassrls,
               exists (select from pg_class c
                        where c.relkind in ('r', 'p') and c.relnamespace = 'public'::regnamespace
                          and pg_has_role(r.oid, c.relowner, 'member')) as owns
          from pg_roles r
         where r.rolname = current_user
        """
    )
    if role is None or role["rolsuper"] or role["rolbypassrls"] or role["owns"]:
        raise OverPrivilegedRole(
            "the role of DATABASE_URL is a superuser, bypasses row-level security or owns the tables; "
            "use the role probity_app (see `probity db --help`)"
        )
    bypass = await system.fetchval("select rolbypassrls and not rolsuper from pg_roles where rolname = current_user")
    if not bypass:
        raise OverPrivilegedRole("the role of DATABASE_SYSTEM_URL must bypass row-level security and must not be a superuser")


async def _close_pools(pools: Sequence[asyncpg.Pool]) -> None:
    for pool in pools:
        await _close_or_terminate(pool)


async def _close_or_terminate(pool: asyncpg.Pool) -> None:
    try:
        await asyncio.wait_for(pool.close(), 5)
    except (TimeoutError, *_LOST, asyncpg.InterfaceError):
        pool.terminate()


def _array_literal(org_ids: Sequence[OrgId]) -> str:
    # Only UUID objects reach this text, so nothing a client sends can.
    return "{" + ",".join(str(UUID(int=org_id.int)) for org_id in org_ids) + "}"


def _decode(row: asyncpg.Record, kind: type[T]) -> T:
    return msgspec.convert(dict(row), kind, builtin_types=_NATIVE)
