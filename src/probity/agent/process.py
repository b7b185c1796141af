"""The command of a job as the agent sees it: started through the supervisor, its output as two streams, its end as a fact."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from probity.agent import supervisor

# Marks every process of a job that keeps its environment; the way to find them when the supervisor was killed.
JOB_MARKER: Final = "PROBITY_JOB_ID"
_STREAM_LIMIT_BYTES: Final = 65_536
_PIPES_DEADLINE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    Args:
        exit_code: what it returned, 128 + n when signal n ended it, None when it never started or nobody saw it end.
        signal_name: the signal that ended it.
        spawn_error: why it could not be started.
        left: processes that could not be killed.
    """

    exit_code: int | None
    signal_name: str | None = None
    spawn_error: str | None = None
    left: int = 0


class Command:
    """One running command. Use `start`, read `stdout` and `stderr` to their end, then `wait`."""

    def __init__(self, process: Process, status: asyncio.StreamReader, transport: asyncio.BaseTransport, job_id: str) -> None:
        self._process = process
        self._status = status
        self._transport = transport
        self._job_id = job_id
        self._watch = asyncio.create_task(self._read_status())

    @classmethod
    async def start(cls, command: Sequence[str], *, job_id: str, cwd: Path, env: Mapping[str, str], grace_s: float) -> "Command":
        """Start `command` under a supervisor. A command that cannot be started shows in what `wait` returns."""
        status_read, status_write = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", "-B", str(Path(supervisor.__file__)), str(status_write),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                env=_own_environment(job_id), pass_fds=(status_write,), start_new_session=True, limit=_STREAM_LIMIT_BYTES,
            )  # fmt: skip
        finally:
            os.close(status_write)
        status = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(status), os.fdopen(status_read, "rb")
        )
        running = cls(process, status, transport, job_id)
        order = {"command": list(command), "cwd": str(cwd), "env": dict(env) | {JOB_MARKER: job_id}, "grace_s": grace_s}
        await running._order(order)
        return running

    @property
    def pid(self) -> int:
        """The supervisor's pid: ending it ends the command."""
        return self._process.pid

    @property
    def stdout(self) -> asyncio.StreamReader:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def stderr(self) -> asyncio.StreamReader:
        assert self._process.stderr is not None
        return self._process.stderr

    async def terminate(self, grace_s: float) -> None:
        """Ask the command and all its children to end, and kill what has not after `grace_s`. Returns at once."""
        await self._order({"terminate": grace_s})

    async def wait(self) -> Ended:
        """Wait until the command and everything it started is gone."""
        ended = await asyncio.shield(self._watch)
        self._transport.close()
        # The supervisor has cleared up, unless something killed it; then the marker is what is left to go by.
        left = await asyncio.to_thread(end_marked, self._job_id)
        with suppress(TimeoutError):
            # asyncio counts a process as ended when its pipes are closed too, which something that escaped may prevent.
            await asyncio.wait_for(self._process.wait(), _PIPES_DEADLINE_S)
        return Ended(ended.exit_code, ended.signal_name, ended.spawn_error, max(ended.left, left))

    async def _order(self, order: Mapping[str, object]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the supervisor has ended; what it said says how

    async def _read_status(self) -> Ended:
        exit_code: int | None = None
        signal_name = spawn_error = None
        left = 0
        while (line := await self._status.readline()).endswith(b"\n"):  # a killed supervisor may leave half a line
            record = json.loads(line)
            if "failed" in record:
                spawn_error = str(record["failed"])
            elif "exited" in record:
                exit_code = int(record["exited"])
                if exit_code < 0:
                    signal_name = _signal_name(-exit_code)
                    exit_code = 128 - exit_code
            elif "left" in record:
                left = int(record["left"])
        return Ended(exit_code, signal_name, spawn_error, left)


def _own_environment(job_id: str) -> dict[str, str]:
    """What the supervisor itself needs: the marker, and where this Python finds its libraries when that is not built in."""
    kept = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")
    return {JOB_MARKER: job_id} | {name: os.environ[name] for name in kept if name in os.environ}


def process_started(pid: int) -> str | None:
    """Return what tells this process from a later one with the same pid, or None when there is none (or no way to tell)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return f"{boot}:{int(fields[19])}"


def end_leftovers(job_id: str, pid: int | None, started: str | None) -> int:
    """End what an earlier agent process left running of a job; return how many processes could not be killed."""
    tree: set[int] = set()
    if pid is not None and started is not None and process_started(pid) == started:
        tree = {pid} | supervisor.descendants(pid, supervisor.process_table())
    supervisor.send(signal.SIGKILL, tree)
    return end_marked(job_id)


def end_marked(job_id: str) -> int:
    """Kill every process that carries the marker of this job in its environment (Linux only)."""
    if not supervisor.LINUX:
        return 0
    return supervisor.end_all(lambda: _marked(job_id), 0.0, lambda: None)


def _marked(job_id: str) -> set[int]:
    marker = f"{JOB_MARKER}={job_id}".encode()
    found = set()
    for pid in supervisor.process_table():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if marker in environment.split(b"\0"):
            found.add(pid)
    return found


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
