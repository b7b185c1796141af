"""A small process between the agent and the command of one job, so that nothing the command starts outlives it.

Runs as a script (`python -I -S supervisor.py FD`) and uses the standard library only. It adopts orphans of the command (on Linux as
"child subreaper"), so a grandchild that changes its session, group and environment is still found. Its standard input is a control
pipe: the first line is the order to start, a later line asks for termination, and the end of the pipe means that the agent is gone,
even by SIGKILL; then everything is ended. What it has to say goes to the descriptor FD as JSON lines:

    {"started": pid} | {"failed": "text"}      once
    {"exited": code or -signal}                the command itself ended
    {"left": n}                                the end; n processes could not be killed
"""

import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

LINUX: Final[bool] = sys.platform == "linux"
PR_SET_CHILD_SUBREAPER: Final = 36
AFTERMATH_GRACE_S: Final = 1.0
ORPHAN_GRACE_S: Final = 2.0
KILL_DEADLINE_S: Final = 10.0


def main() -> None:
    status_fd = int(sys.argv[1])
    os.set_inheritable(status_fd, False)
    wake_fd = wake_on_child_exit()
    # A signal to the agent's whole group or unit reaches the agent too, which then decides what becomes of the job.
    # A handler rather than SIG_IGN, because the command would inherit an ignored signal.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    become_subreaper()
    control = ControlPipe(0)
    order = control.next_line(wait=True)
    if order is None:
        return
    try:
        child = start(order)
    except (OSError, ValueError) as error:
        say(status_fd, {"failed": str(error)})
        say(status_fd, {"left": 0})
        return
    say(status_fd, {"started": child})
    # From here on only the command and its children hold the output pipes: their end is the end of the output.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    Supervisor(child, control, status_fd, wake_fd, float(order["grace_s"])).watch()


def wake_on_child_exit() -> int:
    """Return a descriptor that becomes readable when a child ends."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return wake_read


def start(order: dict[str, Any]) -> int:
    process = subprocess.Popen(order["command"], cwd=order["cwd"], env=order["env"], stdin=subprocess.DEVNULL, start_new_session=True)
    process.returncode = 0  # collected below with all adopted orphans; this keeps Popen from complaining
    return process.pid


class ControlPipe:
    """Reads JSON lines from the agent; the end of the pipe is the agent's end."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.at_end = False
        self._buffer = b""

    def next_line(self, *, wait: bool) -> dict[str, Any] | None:
        """Return the next order, or None when there is none yet (`wait=False`) or never will be."""
        while b"\n" not in self._buffer and not self.at_end:
            data = os.read(self.fd, 1_048_576)
            self._buffer += data
            self.at_end = not data
            if not wait:
                break
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            return None
        self._buffer = rest
        return dict(json.loads(line))


class Supervisor:
    def __init__(self, child: int, control: ControlPipe, status_fd: int, wake_fd: int, grace_s: float) -> None:
        self._child = child
        self._control = control
        self._status_fd = status_fd
        self._wake_fd = wake_fd
        self._grace_s = grace_s

    def watch(self) -> None:
        """Wait for the end of the command or the order to end it, then clear up what it leaves behind."""
        grace_s = self._await_end()
        left = end_all(self._tree, grace_s, self._reap)
        self._reap()
        say(self._status_fd, {"left": left})

    def _await_end(self) -> float:
        """Return how long the processes that are left may take to end by themselves."""
        selector = selectors.DefaultSelector()
        selector.register(self._control.fd, selectors.EVENT_READ)
        selector.register(self._wake_fd, selectors.EVENT_READ)
        while True:
            if self._reap():
                return AFTERMATH_GRACE_S
            for key, _ in selector.select(1.0):
                if key.fd == self._wake_fd:
                    os.read(self._wake_fd, 4_096)
                elif order := self._control.next_line(wait=False):
                    return float(order["terminate"])
                elif self._control.at_end:
                    return min(self._grace_s, ORPHAN_GRACE_S)

    def _reap(self) -> bool:
        """Collect ended children; True when the command itself is among them."""
        ended = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            if pid == self._child:
                ended = True
                say(self._status_fd, {"exited": os.waitstatus_to_exitcode(status)})

    def _tree(self) -> set[int]:
        table = process_table()
        return descendants(os.getpid(), table) | {pid for pid, (_, group) in table.items() if group == self._child}


def end_all(find: Callable[[], set[int]], grace_s: float, reap: Callable[[], object]) -> int:
    """Ask the processes that `find` returns to end, kill what is left after `grace_s`; return how many could not be killed."""
    asked: set[int] = set()
    deadline = time.monotonic() + grace_s
    while (pids := find()) and time.monotonic() < deadline:
        # New ones may appear while old ones end; each is asked once. A stopped process must run to see the request.
        send(signal.SIGTERM, pids - asked)
        send(signal.SIGCONT, pids - asked)
        asked |= pids
        time.sleep(0.01)
        reap()
    deadline = time.monotonic() + KILL_DEADLINE_S
    while (pids := find()) and time.monotonic() < deadline:
        send(signal.SIGKILL, pids)
        time.sleep(0.005)
        reap()
    return len(find())


def send(number: int, pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def become_subreaper() -> None:
    if LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def process_table() -> dict[int, tuple[int, int]]:
    """Return `pid -> (parent, group)` of every live process; zombies have ended and are left out."""
    return _table_from_proc() if LINUX else _table_from_ps()


def _table_from_proc() -> dict[int, tuple[int, int]]:
    table = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib would double the start of this script
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - see above
                # The command name in parentheses may hold anything, parentheses and spaces too.
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields and fields[0] not in (b"Z", b"X"):
            table[int(name)] = (int(fields[1]), int(fields[2]))
    return table


def _table_from_ps() -> dict[int, tuple[int, int]]:
    ps = subprocess.Popen(["ps", "-axo", "pid=,ppid=,pgid=,stat="], stdout=subprocess.PIPE, text=True)
    rows = [line.split() for line in ps.communicate()[0].splitlines()]
    return {int(row[0]): (int(row[1]), int(row[2])) for row in rows if len(row) > 3 and row[3][0] != "Z" and int(row[0]) != ps.pid}


def descendants(root: int, table: dict[int, tuple[int, int]]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in table.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    unvisited = [root]
    while unvisited:
        for pid in children.get(unvisited.pop(), []):
            if pid not in found:
                found.add(pid)
                unvisited.append(pid)
    return found


def say(fd: int, record: dict[str, int | str]) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(fd, json.dumps(record).encode() + b"\n")


if __name__ == "__main__":
    main()
