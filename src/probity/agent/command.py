"""One job of kind `command`, from its payload to its last record in the spool."""

import asyncio
import errno
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec

from probity.agent import files
from probity.agent.live import LiveResults, install_plugin
from probity.agent.output import LogBatch, Masker, OutputCap, Stream, StreamText
from probity.agent.process import JOB_MARKER, Command, Ended, process_started
from probity.agent.settings import CHILD_ENVIRONMENT, AgentSettings
from probity.agent.spool import Item, ItemKind, Spool, SpooledJob, SpoolFull
from probity.agent.wire import CommandPayload, Completion, Event, FinishedEvent, LogEvent, StatusEvent, timestamp

FLUSH_S: Final = 0.1
FLUSH_CHARS: Final = 65_536
READ_BYTES: Final = 65_536
FILE_ITEMS: Final = 500
# After the supervisor has ended, only something that escaped it can still hold the output pipes.
DRAIN_DEADLINE_S: Final = 5.0
# Output past the limit is dropped and the command goes on; one that writes this many times the limit is not going to stop by itself.
RUNAWAY_FACTOR: Final = 10
RUNAWAY_FLOOR_BYTES: Final = 67_108_864
ROOM_CHECK_S: Final = 5.0
_RESERVED: Final = (JOB_MARKER, "PROBITY_EVENTS_FILE")


class Reason(StrEnum):
    """Why a job did not succeed."""

    NONZERO_EXIT = "nonzero_exit"
    KILLED = "killed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    OUTPUT_LIMIT = "output_limit"
    SPAWN_FAILED = "spawn_failed"
    INVALID_CWD = "invalid_cwd"
    INVALID_PAYLOAD = "invalid_payload"
    UNSUPPORTED_JOB = "unsupported_job"
    LEASE_LOST = "lease_lost"
    DISK_FULL = "disk_full"
    AGENT_STOPPED = "agent_stopped"
    AGENT_RESTARTED = "agent_restarted"


_WORDS: Final[Mapping[Reason, str]] = {
    Reason.TIMEOUT: "the command took longer than its time limit",
    Reason.CANCELLED: "the run was cancelled",
    Reason.OUTPUT_LIMIT: "the command did not stop writing output",
    Reason.LEASE_LOST: "the server gave the job away or ended it while this agent was out of reach",
    Reason.DISK_FULL: "the agent's disk is full",
    Reason.AGENT_STOPPED: "the agent was stopped",
    Reason.AGENT_RESTARTED: "the agent was restarted while the command ran",
}


def reason_text(reason: Reason) -> str:
    return _WORDS[reason]


class InvalidWorkingDirectory(Exception):
    """The sentence says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended, in the terms of the server."""

    exit_code: int | None
    reason: Reason | None
    error: str | None

    @property
    def succeeded(self) -> bool:
        return self.reason is None


class EventLog:
    """Makes the log events of one claim of a job; their ids are fixed here, before anything is stored or sent."""

    def __init__(self, claim: str, part: str) -> None:
        self._prefix = f"{claim}-{part}"
        self._count = 0

    def next_id(self) -> str:
        self._count += 1
        return f"{self._prefix}-{self._count}"

    def log(self, stream: Stream, text: str) -> Item:
        return event_item(LogEvent(self.next_id(), timestamp(), stream, text))

    def system(self, text: str) -> Item:
        return self.log("system", f"{text}\n")


def event_item(event: Event) -> Item:
    return Item(ItemKind.EVENT, event.id, msgspec.json.encode(event))


def last_items(claim: str, outcome: Outcome, result: dict[str, int | float | str | None] | None = None) -> list[Item]:
    """Return the records that end a run and its job. Their ids are the same whoever writes them, so they exist once."""
    reason = outcome.reason.value if outcome.reason else None
    # For the run, a command that ends with another code than 0 is an answer like any other; a reason says that there is none.
    run_reason = None if outcome.reason is Reason.NONZERO_EXIT else reason
    finished = FinishedEvent(f"{claim}-finished", timestamp(), outcome.exit_code, run_reason)
    completion = Completion("succeeded" if outcome.succeeded else "failed", outcome.error, reason, result)
    return [event_item(finished), Item(ItemKind.COMPLETE, "complete", msgspec.json.encode(completion))]


class CommandJob:
    """Runs one command and writes everything about it to the spool. `stop` ends it early, with a reason."""

    def __init__(
        self,
        *,
        job: SpooledJob,
        payload: CommandPayload,
        settings: AgentSettings,
        spool: Spool,
        environ: Mapping[str, str],
        written: asyncio.Event,
    ) -> None:
        self._job_id = job.job_id
        self._claim = job.claim
        self._payload = payload
        self._directory = Path(job.directory)
        self._settings = settings
        self._spool = spool
        self._environ = environ
        secrets = [payload.env[name] for name in payload.secret_env if name in payload.env]
        self._masker = Masker(secrets)
        self._secrets = secrets
        self._events = EventLog(job.claim, "log")
        self._cap = OutputCap(payload.output_limit_bytes)
        self._batch = LogBatch()
        self._live = LiveResults(self._directory / "results.ndjson", self._masker)
        self._command: Command | None = None
        self._stopped: Reason | None = None
        self._capped = False
        self._spool_lock = asyncio.Lock()
        self._written = written

    async def run(self) -> Outcome:
        """Run to the end, spool the outcome and return it. Never raises for what the command or the disk does."""
        started = time.time()
        try:
            outcome = await self._run(started)
        except SpoolFull as error:
            await self._kill()
            outcome = Outcome(None, Reason.DISK_FULL, str(error))
        except OSError as error:
            reason = Reason.DISK_FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else Reason.SPAWN_FAILED
            outcome = Outcome(None, reason, f"the command could not be started: {error}")
        result: dict[str, int | float | str | None] = {
            "exit_code": outcome.exit_code,
            "duration_ms": round((time.time() - started) * 1000),
            "output_bytes": self._cap.total_bytes,
        }
        await self._end(last_items(self._claim, outcome, result))
        return outcome

    async def _end(self, items: list[Item]) -> None:
        """Spool the last records, however long it takes until there is room: delivery of the earlier ones makes some."""
        while True:
            try:
                await self._spool.end_job(self._job_id, items)
            except SpoolFull:
                await asyncio.sleep(ROOM_CHECK_S)
            else:
                self._written.set()
                return

    async def stop(self, reason: Reason) -> None:
        """End the command early; the first reason counts."""
        if self._stopped is None:
            self._stopped = reason
            await self._kill()

    async def _kill(self) -> None:
        if self._command is not None:
            await self._command.terminate(self._settings.kill_grace_s)

    async def _run(self, started: float) -> Outcome:
        await self._append([event_item(StatusEvent(f"{self._claim}-running", timestamp(), "running"))])
        try:
            cwd = self._working_directory()
        except InvalidWorkingDirectory as error:
            await self._append([self._events.system(str(error))])
            return Outcome(None, Reason.INVALID_CWD, str(error))
        environment = self._child_environment()
        self._command = await Command.start(
            self._payload.command, job_id=self._job_id, cwd=cwd, env=environment, grace_s=self._settings.kill_grace_s
        )
        try:
            await self._spool.set_process(self._job_id, self._command.pid, process_started(self._command.pid))
            if self._stopped is not None:
                await self._kill()
            ended = await self._follow(self._command)
        except BaseException:
            # Cancelled, or the disk is full: nothing may be left running.
            await self._command.terminate(self._settings.kill_grace_s)
            await self._command.wait()
            raise
        await self._spool_files(cwd, started)
        return self._outcome(ended)

    async def _follow(self, command: Command) -> Ended:
        """Read output and live results until the command and all its children are gone."""
        readers = [asyncio.create_task(self._read(command.stdout, "stdout")), asyncio.create_task(self._read(command.stderr, "stderr"))]
        flusher = asyncio.create_task(self._flush_forever())
        clock = asyncio.create_task(self._watch_clock())
        ending = asyncio.create_task(command.wait())
        try:
            await _first_error_or(ending, [flusher, *readers])
            ended = await ending
            await asyncio.wait(readers, timeout=DRAIN_DEADLINE_S)
        finally:
            for task in (flusher, clock, *readers):
                task.cancel()
            await asyncio.gather(flusher, clock, *readers, return_exceptions=True)
        self._end_output()
        await self._flush(everything=True)
        return ended

    async def _read(self, reader: asyncio.StreamReader, stream: Stream) -> None:
        text = StreamText(self._secrets)
        try:
            while data := await reader.read(READ_BYTES):
                self._batch.add(stream, text.feed(self._cap.admit(stream, data)))
                if self._cap.total_bytes > max(RUNAWAY_FLOOR_BYTES, RUNAWAY_FACTOR * self._payload.output_limit_bytes):
                    await self.stop(Reason.OUTPUT_LIMIT)
                if self._batch.chars >= FLUSH_CHARS:
                    # A fast writer waits for the disk here, and its command waits in the pipe.
                    await self._flush()
        finally:
            self._batch.add(stream, text.end())

    def _end_output(self) -> None:
        """Add what is said about output past the limit, and its end."""
        if not self._cap.exceeded:
            return
        lost, tail = self._cap.tail()
        self._batch.add(
            "system", f"\n[output limit of {self._payload.output_limit_bytes} bytes reached; {lost} bytes are left out, the end follows]\n"
        )
        texts: dict[Stream, StreamText] = {}
        for stream, data in tail:
            self._batch.add(stream, texts.setdefault(stream, StreamText(self._secrets)).feed(data))
        for stream, text in texts.items():
            self._batch.add(stream, text.end())

    async def _flush_forever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self._flush()

    async def _flush(self, *, everything: bool = False) -> None:
        """Move what has come since the last time into the spool: log first, then results.

        Shielded, because the periodic flush is cancelled when the command ends: what it had taken by then must still arrive.
        """
        await asyncio.shield(self._flush_now(everything=everything))

    async def _flush_now(self, *, everything: bool) -> None:
        async with self._spool_lock:
            logs = [self._events.log(stream, text) for stream, text in self._batch.take()]
            results = await asyncio.to_thread(self._live.read)
            if logs or results:
                await self._append(logs + results, self._live.offset)
            while everything and (more := await asyncio.to_thread(self._live.read)):
                await self._append(more, self._live.offset)

    async def _append(self, items: Iterable[Item], live_offset: int | None = None) -> None:
        await self._spool.append(self._job_id, items, live_offset)
        self._written.set()

    async def _watch_clock(self) -> None:
        await asyncio.sleep(self._payload.timeout_s)
        await self.stop(Reason.TIMEOUT)

    async def _spool_files(self, cwd: Path, started: float) -> None:
        """Spool what the JUnit files and artifacts say, in pieces: a report may be larger than this process should become."""
        collected = self._collect(cwd, started)
        while items := await asyncio.to_thread(lambda: list(itertools.islice(collected, FILE_ITEMS))):
            await self._append([self._events.system(item) if isinstance(item, str) else item for item in items])

    def _collect(self, cwd: Path, started: float) -> Iterator[Item | str]:
        """Yield the results of the JUnit files, the artifacts, and a sentence for what cannot be used."""
        reports = list(files.find(cwd, self._payload.junit, since=started))
        known = frozenset(self._live.cases)
        for report in reports:
            if isinstance(report, files.Found):
                yield from files.junit_results(report, claim=self._claim, known=known, masker=self._masker)
        kept: set[Path] = set()
        for found in [*reports, *files.find(cwd, self._payload.artifacts)]:
            if isinstance(found, str):
                yield found
            elif found.path not in kept:
                kept.add(found.path)
                yield files.keep(found, self._directory / "uploads", self._settings.artifact_limit_bytes)
        if self._live.refused:
            yield f"{self._live.refused} lines of live results could not be read"

    def _outcome(self, ended: Ended) -> Outcome:
        if ended.spawn_error is not None:
            return Outcome(None, Reason.SPAWN_FAILED, self._masker.once(f"cannot start {self._payload.command[0]!r}: {ended.spawn_error}"))
        if self._stopped is not None:
            return Outcome(ended.exit_code, self._stopped, reason_text(self._stopped))
        if ended.exit_code is None:
            return Outcome(None, Reason.KILLED, "the command was killed from outside together with its supervisor")
        if ended.signal_name is not None:
            return Outcome(ended.exit_code, Reason.KILLED, f"the command was ended by {ended.signal_name}")
        if ended.exit_code != 0:
            return Outcome(ended.exit_code, Reason.NONZERO_EXIT, f"the command ended with exit code {ended.exit_code}")
        return Outcome(0, None, None)

    def _working_directory(self) -> Path:
        """Return the directory to run in; without one asked for, an empty one that vanishes with the job.

        Raises:
            InvalidWorkingDirectory: it does not exist, or this agent may not run there.
        """
        if self._payload.cwd is None:
            own = self._directory / "work"
            own.mkdir(exist_ok=True)
            return own
        asked = Path(self._payload.cwd)
        if not asked.is_absolute():
            raise InvalidWorkingDirectory(f"the working directory {self._payload.cwd!r} must be an absolute path")
        # Resolved first, so that neither `..` nor a link leads out of the allowed roots.
        cwd = asked.resolve()
        if not cwd.is_dir():
            raise InvalidWorkingDirectory(f"the working directory {self._payload.cwd!r} does not exist on this agent")
        roots = self._settings.allowed_roots
        if roots and not any(cwd.is_relative_to(root.resolve()) for root in roots):
            raise InvalidWorkingDirectory(f"this agent does not run commands in {self._payload.cwd!r}")
        if not os.access(cwd, os.X_OK):
            raise InvalidWorkingDirectory(f"the working directory {self._payload.cwd!r} is not open to this agent")
        return cwd

    def _child_environment(self) -> dict[str, str]:
        names = (*CHILD_ENVIRONMENT, *self._settings.pass_env)
        environment = {name: self._environ[name] for name in names if name in self._environ}
        environment |= {name: value for name, value in self._payload.env.items() if name not in _RESERVED}
        environment[JOB_MARKER] = self._job_id
        if self._payload.pytest_live:
            plugins = self._settings.data / "pytest"
            install_plugin(plugins)
            environment["PROBITY_EVENTS_FILE"] = str(self._live.path)
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(plugins), environment.get("PYTHONPATH")]))
        return environment


async def _first_error_or(ending: asyncio.Task[Ended], others: list[asyncio.Task[None]]) -> None:
    """Wait for `ending`; an error of one of the others (a full disk) comes through at once, because it must end the command."""
    open_tasks: set[asyncio.Task[Any]] = {ending, *others}
    while not ending.done():
        done, open_tasks = await asyncio.wait(open_tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
