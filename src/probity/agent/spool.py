"""The agent's durable memory: which jobs it holds, and an outbox of what the server has not acknowledged.

SQLite with full synchronisation: a record is on disk before anything relies on it, and a killed agent finds it again. A rollback journal
rather than a write-ahead log, because a log holds the data twice and needs room even to delete, which a full disk does not have.
Each job's records leave in the order in which they entered: events, uploads, the end of the run, the completion. Client ids decided
before a record is spooled make a second delivery harmless, so "delivered, then forgotten" needs no atomicity across the network.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec

from probity.kernel.errors import Unavailable

R = TypeVar("R")

# Room kept for the last words of jobs: when the disk or the limit is full, giving it up lets them be written.
RESERVE_BYTES: Final = 1_048_576
_PAGE_BYTES: Final = 4_096
_WORTH_GIVING_BACK_PAGES: Final = 256

_SCHEMA: Final = """
create table if not exists jobs (
    job_id text primary key,
    claim text not null,
    run_id text not null,
    directory text not null,
    state text not null check (state in ('running', 'ended')),
    has_secrets integer not null,
    pid integer,
    pid_started text,
    live_offset integer not null default 0
) strict;
create table if not exists outbox (
    seq integer primary key autoincrement,
    job_id text not null references jobs on delete cascade,
    kind text not null check (kind in ('event', 'upload', 'complete')),
    key text not null,
    body blob not null,
    constraint outbox_key_once unique (job_id, key)
) strict;
"""


class SpoolFull(Unavailable):
    """The disk, or the share of it that the agent may use, is full."""

    code = "agent.disk_full"


class SpoolDamaged(Unavailable):
    """The file is no database any more. It is not thrown away silently, because records may be lost with it."""

    code = "agent.spool_damaged"

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} is damaged ({why}); move it away to start with an empty one, what it had not delivered is lost")


class ItemKind(StrEnum):
    EVENT = "event"
    UPLOAD = "upload"
    COMPLETE = "complete"


class Item(msgspec.Struct, frozen=True):
    """One record of the outbox; `key` is unique within its job."""

    kind: ItemKind
    key: str
    body: bytes
    seq: int = 0


class SpooledJob(msgspec.Struct, frozen=True):
    """A job that this agent holds. `claim` tells one claim of a job from a later one of the same job: its events are other events."""

    job_id: str
    claim: str
    run_id: str
    directory: str
    state: Literal["running", "ended"] = "running"
    has_secrets: bool = False
    pid: int | None = None
    pid_started: str | None = None
    live_offset: int = 0


class Spool:
    """One SQLite database used from one thread of its own, so that waiting for the disk never stops the event loop."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self._path = path
        self._reserve = path.with_name(path.name + ".reserve")
        self._limit_bytes = max(limit_bytes, RESERVE_BYTES)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._db: sqlite3.Connection | None = None

    async def open(self) -> None:
        await self._run(self._open)

    async def close(self) -> None:
        await self._run(self._close)
        self._thread.shutdown()

    async def add_job(self, job: SpooledJob) -> bool:
        """Note a job; False when it is here already, because its lease ran out and the server has given it to us again."""
        insert = "insert or ignore into jobs (job_id, claim, run_id, directory, state, has_secrets) values (?, ?, ?, ?, ?, ?)"
        row = (job.job_id, job.claim, job.run_id, job.directory, job.state, job.has_secrets)
        return await self._run(self._write, insert, row) > 0

    async def set_process(self, job_id: str, pid: int, started: str | None) -> None:
        """Remember the child of a job, so that a restarted agent can end it: a pid alone may be another process by then."""
        await self._run(self._write, "update jobs set pid = ?, pid_started = ? where job_id = ?", (pid, started, job_id))

    async def append(self, job_id: str, items: Iterable[Item], live_offset: int | None = None) -> None:
        """Add records to the outbox; ones whose key is there already are left out.

        `live_offset` moves the reading position in the job's file of live results, in the same transaction.
        """
        await self._run(self._insert, job_id, list(items), live_offset, False)

    async def end_job(self, job_id: str, items: Iterable[Item]) -> None:
        """Add the last records of a job and mark it ended. Uses the reserve when the disk is full."""
        await self._run(self._end, job_id, list(items))

    async def jobs(self) -> list[SpooledJob]:
        return await self._run(self._jobs)

    async def next_batch(self, job_id: str, *, after_seq: int, most: int, most_bytes: int) -> list[Item]:
        """Return the oldest records of a job that can leave together: events up to the limits, or one upload, or the completion."""
        return await self._run(self._next_batch, job_id, after_seq, most, most_bytes)

    async def acknowledge(self, job_id: str, last_seq: int) -> None:
        await self._run(self._write, "delete from outbox where job_id = ? and seq <= ?", (job_id, last_seq))

    async def remove_job(self, job_id: str) -> None:
        await self._run(self._remove_job, job_id)

    async def waiting(self) -> int:
        """Return how many records wait for the server."""
        return await self._run(self._waiting)

    async def _run(self, function: Callable[..., R], *arguments: object) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _open(self) -> None:
        try:
            self._db = _connect(self._path)
        except sqlite3.OperationalError as error:
            if not _is_full(error):
                raise SpoolDamaged(self._path, str(error)) from error
            self._reserve.unlink(missing_ok=True)
            self._db = _connect(self._path)
        except sqlite3.DatabaseError as error:
            raise SpoolDamaged(self._path, str(error)) from error
        self._keep_reserve()

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise RuntimeError("the spool is not open")
        return self._db

    def _write(self, sql: str, row: tuple[object, ...]) -> int:
        try:
            with self._connection as transaction:
                return transaction.execute(sql, row).rowcount
        except sqlite3.OperationalError as error:
            raise _translated(error) from error

    def _insert(self, job_id: str, items: list[Item], live_offset: int | None, last: bool) -> None:
        rows = [(job_id, item.kind, item.key, item.body) for item in items]
        try:
            with self._connection as transaction:
                transaction.executemany("insert or ignore into outbox (job_id, kind, key, body) values (?, ?, ?, ?)", rows)
                if live_offset is not None:
                    transaction.execute("update jobs set live_offset = ? where job_id = ?", (live_offset, job_id))
                if last:
                    transaction.execute("update jobs set state = 'ended' where job_id = ?", (job_id,))
        except sqlite3.OperationalError as error:
            raise _translated(error) from error

    def _end(self, job_id: str, items: list[Item]) -> None:
        try:
            self._insert(job_id, items, None, True)
        except SpoolFull:
            self._reserve.unlink(missing_ok=True)
            self._limit_pages(self._limit_bytes + RESERVE_BYTES)
            self._insert(job_id, items, None, True)

    def _jobs(self) -> list[SpooledJob]:
        rows = self._connection.execute(
            "select job_id, claim, run_id, directory, state, has_secrets, pid, pid_started, live_offset from jobs order by rowid"
        )
        return [SpooledJob(*row) for row in rows]

    def _next_batch(self, job_id: str, after_seq: int, most: int, most_bytes: int) -> list[Item]:
        select = "select kind, key, body, seq from outbox where job_id = ? and seq > ? order by seq limit ?"
        rows = self._connection.execute(select, (job_id, after_seq, most))
        batch: list[Item] = []
        size = 0
        for kind, key, body, seq in rows:
            item = Item(ItemKind(kind), key, body, seq)
            size += len(body)
            if batch and (item.kind is not ItemKind.EVENT or size > most_bytes):
                break
            batch.append(item)
            if item.kind is not ItemKind.EVENT:
                break
        return batch

    def _remove_job(self, job_id: str) -> None:
        self._write("delete from jobs where job_id = ?", (job_id,))
        if self._connection.execute("select count(*) from jobs").fetchone()[0] == 0:
            self._give_back()
            self._keep_reserve()

    def _give_back(self) -> None:
        """Give the disk back what a long outage took; that takes room itself, so on a full disk it waits for the next time."""
        if self._connection.execute("pragma freelist_count").fetchone()[0] > _WORTH_GIVING_BACK_PAGES:
            with suppress(sqlite3.OperationalError):
                self._connection.execute("vacuum")

    def _waiting(self) -> int:
        return int(self._connection.execute("select count(*) from outbox").fetchone()[0])

    def _keep_reserve(self) -> None:
        """Set the reserve aside when there is room; without room the agent works on for as long as there is any."""
        self._limit_pages(self._limit_bytes)
        if self._reserve.exists():
            return
        try:
            self._reserve.write_bytes(bytes(RESERVE_BYTES))
        except OSError:
            self._reserve.unlink(missing_ok=True)

    def _limit_pages(self, limit_bytes: int) -> None:
        self._connection.execute(f"pragma max_page_count = {limit_bytes // _PAGE_BYTES}")


def _connect(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)
    connection = sqlite3.connect(path, check_same_thread=False, timeout=10)
    connection.execute(f"pragma page_size = {_PAGE_BYTES}")
    connection.execute("pragma journal_mode = truncate")
    connection.execute("pragma synchronous = full")
    connection.execute("pragma foreign_keys = on")
    connection.executescript(_SCHEMA)
    return connection


def _is_full(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def _translated(error: sqlite3.OperationalError) -> Exception:
    return SpoolFull(f"the agent's disk is full: {error}") if _is_full(error) else error
