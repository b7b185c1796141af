"""Start, watch and stop one PostgreSQL on one data directory."""

import contextlib
import json
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from probity.kernel.lockfile import locked
from probity.kernel.postgres import processes
from probity.kernel.postgres.account import Account, postgres_account
from probity.kernel.postgres.binaries import Binaries, find_binaries
from probity.kernel.postgres.places import home_directory, make_socket_directory, shared_directory, socket_directory
from probity.kernel.privatefile import write_private
from probity.kernel.secret import Secret

SUPERUSER: Final = "postgres"
ROLES: Final = (SUPERUSER, "probity_owner", "probity_app", "probity_system")
_ATTEMPTS: Final = 6
# What PostgreSQL says when something of an earlier server is still there; anything else will not pass by waiting.
_NOT_YET: Final = ("lock file", "shared memory", "already in use", "is another postmaster")
_LOG_LIMIT_BYTES: Final = 8 * 1024 * 1024
_SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "120",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",
    "password_encryption": "scram-sha-256",
    "log_min_duration_statement": "2000",
    "wal_compression": "on",
}
_THROW_AWAY: Final = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_wal_size": "2GB"}


class PostgresFailed(Exception):
    """PostgreSQL did not start, or its data belongs to another major version; the message carries what it said."""


@dataclass(frozen=True)
class Cluster:
    """A running PostgreSQL, reachable through its socket only."""

    data: Path
    socket_dir: Path
    log: Path
    binaries: Binaries
    pid: int
    passwords: Mapping[str, Secret]

    @property
    def admin_dsn(self) -> Secret:
        """The superuser on the database `postgres`: for creating databases and roles, never for the application."""
        return self.dsn(SUPERUSER, "postgres")

    def is_running(self) -> bool:
        return processes.is_server_of(self.pid, self.data)

    def dsn(self, role: str, database: str) -> Secret:
        password = quote(self.passwords[role].reveal(), safe="")
        return Secret(f"postgresql://{role}:{password}@/{quote(database, safe='')}?host={quote(str(self.socket_dir), safe='')}")


@contextlib.contextmanager
def embedded_cluster(
    data_dir: Path, *, durable: bool = True, binaries_dir: Path | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """Run PostgreSQL on `data_dir` (made when absent) until the block ends; recovers from whatever ended the last one.

    Should this process die without leaving the block, a watcher shuts the server down within a moment.

    Args:
        durable: False turns off everything that protects data from a power cut; for tests.
        binaries_dir: PostgreSQL programs to use instead of the package's.
        settings: server parameters on top of ours.

    Raises:
        AlreadyLocked: another process runs a server on this directory.
        PostgresFailed: it did not start.
        NoPostgres: no programs were found.
    """
    data_dir = data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(data_dir / "lock"):
        account = postgres_account()
        home = home_directory(data_dir, account)
        binaries = find_binaries(account, shared_directory() if account.is_other else data_dir, binaries_dir)
        passwords = _passwords(data_dir / "credentials.json")
        _initialize(home, account, binaries, passwords[SUPERUSER], durable=durable)
        parameters = {**_SETTINGS, **({} if durable else _THROW_AWAY), **(settings or {})}
        with socket_directory(data_dir, account) as socket_dir:
            server = _start(home, socket_dir, account, binaries, parameters)
            try:
                with _watcher(server.pid, account):
                    yield Cluster(home / "data", socket_dir, home / "log", binaries, server.pid, passwords)
            finally:
                _stop(server)


def running_cluster(data_dir: Path) -> Cluster | None:
    """Return the cluster that another process runs on `data_dir`, or None when none accepts connections."""
    data_dir = data_dir.resolve()
    credentials = data_dir / "credentials.json"
    if not credentials.exists():
        return None
    account = postgres_account()
    home = home_directory(data_dir, account)
    pid = processes.recorded_pid(home / "data" / processes.PID_FILE)
    if pid is None or not processes.is_server_of(pid, home / "data") or not processes.is_ready(home / "data", pid):
        return None
    binaries = find_binaries(account, shared_directory() if account.is_other else data_dir)
    return Cluster(home / "data", make_socket_directory(data_dir, account), home / "log", binaries, pid, _passwords(credentials))


def _passwords(path: Path) -> dict[str, Secret]:
    if not path.exists():
        write_private(path, json.dumps({role: secrets.token_urlsafe(24) for role in ROLES}).encode())
    return {role: Secret(value) for role, value in json.loads(path.read_text(encoding="utf-8")).items()}


def _initialize(home: Path, account: Account, binaries: Binaries, password: Secret, *, durable: bool) -> None:
    data = home / "data"
    version = data / "PG_VERSION"
    if version.exists():
        made_by = version.read_text(encoding="utf-8").strip()
        if made_by != str(binaries.major):
            raise PostgresFailed(
                f"{data} was made by PostgreSQL {made_by}, and this is {binaries.major}; back up with the old one and restore with this one"
            )
        return
    unfinished = home / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    password_file = home / "password"
    write_private(password_file, password.reveal().encode())
    account.own(password_file)
    locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"] if binaries.major >= 17 else ["--locale=C"]
    try:
        done = account.run(
            [
                binaries.path("initdb"),
                f"--pgdata={unfinished}",
                f"--username={SUPERUSER}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                *locale,
                *([] if durable else ["--no-sync"]),
            ]
        )
    finally:
        password_file.unlink()
    if done.returncode != 0:
        raise PostgresFailed(f"initdb failed: {done.stderr.strip() or done.stdout.strip()}")
    # A kill in the middle leaves `unfinished`, which the next start throws away.
    unfinished.rename(data)


def _start(home: Path, socket_dir: Path, account: Account, binaries: Binaries, parameters: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the server and wait until it accepts connections, crash recovery included."""
    data, log = home / "data", home / "log"
    command = [binaries.path("postgres"), "-D", str(data), f"--unix_socket_directories={socket_dir}"]
    command += [f"--{name}={value}" for name, value in parameters.items()]
    said = ""
    for attempt in range(1, _ATTEMPTS + 1):
        processes.settle_earlier(data, socket_dir)
        said_before = _open_log(log, account)
        with log.open("ab") as output:
            server = account.start(command, cwd=data, stdin=subprocess.DEVNULL, output=output)
        try:
            _wait_until_ready(server, data)
        except BaseException:
            _stop(server)
            raise
        if server.poll() is None:
            return server
        said = _log_since(log, said_before)
        if not any(sign in said for sign in _NOT_YET):
            break
        # Children of a killed server need a moment to notice and let go of its shared memory.
        time.sleep(0.1 * 2**attempt)
    raise PostgresFailed(f"PostgreSQL did not start:\n{said}")


def _wait_until_ready(server: subprocess.Popen[bytes], data: Path) -> None:
    # No limit on purpose: recovery after a crash takes as long as it takes, and the server ends by itself when it cannot.
    while server.poll() is None and not processes.is_ready(data, server.pid):
        time.sleep(0.01)


def _stop(server: subprocess.Popen[bytes]) -> None:
    for name, timeout_s in ((signal.SIGINT, 30), (signal.SIGQUIT, 10), (signal.SIGKILL, 10)):
        if server.poll() is not None:
            return
        server.send_signal(name)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout_s)


@contextlib.contextmanager
def _watcher(pid: int, account: Account) -> Iterator[None]:
    """While the block runs, a shell waits for the end of a pipe; when we die, however, it shuts the server down."""
    command = ["/bin/sh", "-c", 'trap "" INT TERM HUP; read -r _; kill -INT "$1"', "probity-watcher", str(pid)]
    watcher = account.start(command, cwd=Path("/"), stdin=subprocess.PIPE, output=subprocess.DEVNULL)
    assert watcher.stdin is not None
    try:
        yield
    finally:
        # Killed before the pipe closes, so it never signals a process id that is no longer the server's.
        watcher.kill()
        watcher.wait()
        watcher.stdin.close()


def _open_log(log: Path, account: Account) -> int:
    """Make the log file, begin it anew when it is long, and return its size."""
    if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
        log.replace(log.with_name("log.1"))
    log.touch(mode=0o600)
    account.own(log)
    return log.stat().st_size


def _log_since(log: Path, position: int) -> str:
    with log.open("rb") as file:
        file.seek(max(position, log.stat().st_size - 4000))
        return file.read().decode(errors="replace").strip()
