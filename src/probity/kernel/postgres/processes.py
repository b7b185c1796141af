"""What is left of an earlier PostgreSQL on the same directory, and getting past it safely.

PostgreSQL judges a lock file by whether its process id is alive, which a zombie and a recycled id pass. Its second check, that nobody
is attached to the shared memory named in the same file, is the one that protects the data. So a stale file is never deleted: its
process id is replaced by one that is surely dead, and PostgreSQL makes its own second check.
"""

import os
import platform
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

PID_FILE: Final = "postmaster.pid"
SOCKET: Final = ".s.PGSQL.5432"


def settle_earlier(data: Path, socket_dir: Path, *, timeout_s: float = 20.0) -> None:
    """Stop an orphaned server on `data`, and make the lock files of a dead one harmless. The caller owns the directory."""
    pid = recorded_pid(data / PID_FILE)
    if pid is not None and is_server_of(pid, data):
        stop_orphan(pid, data, timeout_s)
    if pid is not None and not is_server_of(pid, data):
        _replace_pid(data / PID_FILE)
    # This directory belongs to one data directory, whose server is gone now.
    for name in (SOCKET, f"{SOCKET}.lock"):
        (socket_dir / name).unlink(missing_ok=True)


def recorded_pid(path: Path) -> int | None:
    try:
        first = path.read_text(encoding="utf-8").split("\n", 1)[0].strip()
    except FileNotFoundError:
        return None
    return abs(int(first)) if first.lstrip("-").isdigit() else None


def is_ready(data: Path, pid: int) -> bool:
    """Whether the server `pid` accepts connections; it says so in the eighth line of its lock file."""
    try:
        lines = (data / PID_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"


def is_server_of(pid: int, data: Path) -> bool:
    """Whether `pid` is a living PostgreSQL on `data`: not a zombie, not another program that got the same number."""
    if pid in {os.getpid(), os.getppid()} or not _exists(pid):
        return False
    if platform.system() == "Linux":
        return _is_server_by_proc(pid, data)
    done = subprocess.run(["ps", "-p", str(pid), "-o", "stat=,command="], capture_output=True, text=True, check=False)
    return not done.stdout.startswith("Z") and "postgres" in done.stdout and str(data) in done.stdout


def _is_server_by_proc(pid: int, data: Path) -> bool:
    process = Path("/proc") / str(pid)
    try:
        state = (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
        return state not in {"Z", "X"} and (process / "cwd").samefile(data)
    except OSError:
        # Another user's process hides its directory from us; ours never does.
        return False


def stop_orphan(pid: int, data: Path, timeout_s: float) -> None:
    """End a server whose owner died: fast shutdown first, then at once, then by force."""
    for name, share in ((signal.SIGINT, 0.6), (signal.SIGQUIT, 0.3), (signal.SIGKILL, 0.1)):
        try:
            os.kill(pid, name)
        except ProcessLookupError:
            return
        ends = time.monotonic() + timeout_s * share
        while time.monotonic() < ends:
            if not is_server_of(pid, data):
                return
            time.sleep(0.02)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _replace_pid(path: Path) -> None:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return
    lines[0] = str(_dead_pid())
    with path.open("r+", encoding="utf-8") as file:  # in place, so that owner and mode stay
        file.write("\n".join(lines))
        file.truncate()


def _dead_pid() -> int:
    """Return the id of a process that just ended and was reaped."""
    child = subprocess.Popen(["/bin/sh", "-c", ":"])
    child.wait()
    return child.pid
