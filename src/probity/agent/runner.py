"""The agent's main loop: heartbeats, claims, leases. Everything that matters is in the spool before it is relied on."""

import asyncio
import logging
import re
import secrets
import shutil
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from probity.agent.api import AgentApi, RequestRefused, ServerAway
from probity.agent.backoff import Backoff
from probity.agent.command import CommandJob, Outcome, Reason, last_items
from probity.agent.delivery import Delivery
from probity.agent.recovery import recover
from probity.agent.settings import CAPABILITIES, AgentSettings, Credential
from probity.agent.spool import Spool, SpooledJob, SpoolFull
from probity.agent.wire import ClaimedJob, CommandPayload
from probity.kernel.privatefile import write_private

log = logging.getLogger("probity.agent")

# A claim that comes back empty sooner than this was not held open; asking again at once would be a busy loop.
SHORT_CLAIM_S: Final = 1.0
DELIVER_AT_STOP_S: Final = 5.0


class Agent:
    """One running agent. `run` returns after `stop`, or raises `CredentialRefused` when the server does not know it any more."""

    def __init__(self, credential: Credential, settings: AgentSettings, environ: Mapping[str, str]) -> None:
        self._credential = credential
        self._settings = settings
        self._environ = environ
        self._api = AgentApi(credential)
        self._spool = Spool(settings.data / "spool.db", settings.spool_limit_bytes)
        self._stopping = asyncio.Event()
        self._server_back = asyncio.Event()
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._running: dict[str, CommandJob] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._last_contact: float | None = None
        self._started = time.time()
        self._away = False

    def stop(self) -> None:
        """Take no more jobs, let running ones end for a while, deliver what can be delivered, return from `run`."""
        self._stopping.set()

    async def run(self) -> None:
        await self._spool.open()
        loops: list[asyncio.Task[None]] = []
        try:
            for job in await recover(self._spool):
                self._start(self._deliver(job, asyncio.Event()))
            loops = [asyncio.create_task(self._heartbeats()), asyncio.create_task(self._claims())]
            stopping = asyncio.create_task(self._stopping.wait())
            ends: list[asyncio.Future[Any]] = [stopping, self._fatal, *loops]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            for task in loops:
                if task.done():
                    task.result()
            if self._fatal.done():
                self._fatal.result()
            await self._drain(loops)
        finally:
            await self._end(loops)

    async def _drain(self, loops: list[asyncio.Task[None]]) -> None:
        loops[1].cancel()  # no more claims; heartbeats and leases go on
        if self._running:
            log.info("stopping: %d jobs may take %g s to end", len(self._running), self._settings.drain_s)
            await asyncio.wait(self._work, timeout=self._settings.drain_s)
        for job in list(self._running.values()):
            await job.stop(Reason.AGENT_STOPPED)
        if self._work:
            await asyncio.wait(self._work, timeout=self._settings.kill_grace_s + DELIVER_AT_STOP_S)

    async def _end(self, loops: list[asyncio.Task[None]]) -> None:
        for job in list(self._running.values()):
            await job.stop(Reason.AGENT_STOPPED)
        tasks = [*loops, *self._work]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._write_status(running=False)
        await self._api.close()
        await self._spool.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._fatal.done():
            self._fatal.set_exception(error)

    async def _heartbeats(self) -> None:
        backoff = Backoff(first_s=1.0)
        while True:
            pause_s = self._credential.heartbeat_s
            try:
                reply = await self._api.heartbeat(CAPABILITIES)
                pause_s = reply.next_heartbeat_seconds
                backoff.reset()
                self._seen()
            except (ServerAway, RequestRefused) as error:
                self._missed(error)
                pause_s = min(pause_s, backoff.next_s(error.retry_after_s if isinstance(error, ServerAway) else 0.0))
            await self._write_status(running=True)
            await asyncio.sleep(min(max(pause_s, 0.5), 300.0))

    async def _claims(self) -> None:
        backoff = Backoff()
        while True:
            await self._slots.acquire()
            asked = time.monotonic()
            try:
                job = await self._api.claim(self._settings.claim_wait_s)
            except (ServerAway, RequestRefused) as error:
                self._slots.release()
                self._missed(error)
                await backoff.wait(self._server_back, error.retry_after_s if isinstance(error, ServerAway) else 0.0)
                continue
            except BaseException:
                self._slots.release()
                raise
            backoff.reset()
            self._seen()
            if job is not None:
                self._start(self._perform(job))
                continue
            self._slots.release()
            if time.monotonic() - asked < min(SHORT_CLAIM_S, self._settings.claim_wait_s):
                await asyncio.sleep(self._credential.poll_s)

    async def _perform(self, job: ClaimedJob) -> None:
        """Run a claimed job. Its slot is free when the command has ended, while its last records may still be on their way."""
        try:
            payload = msgspec.json.decode(job.payload, type=CommandPayload) if job.job_type == "command" else None
            refusal = Outcome(None, Reason.UNSUPPORTED_JOB, f"this agent does not run jobs of kind {job.job_type!r}")
        except msgspec.DecodeError as error:
            payload = None
            refusal = Outcome(None, Reason.INVALID_PAYLOAD, f"the job's payload cannot be used: {error}")
        try:
            if (spooled := await self._take(job, payload)) is None:
                return
            written = asyncio.Event()
            self._start(self._deliver(spooled, written))
            if payload is not None:
                await self._run_command(spooled, payload, written)
            else:
                # Without a run there is nothing to finish, only the job to complete.
                await self._spool.end_job(job.id, last_items(spooled.claim, refusal)[1:])
                written.set()
        finally:
            self._slots.release()

    async def _take(self, job: ClaimedJob, payload: CommandPayload | None) -> SpooledJob | None:
        """Note a job in the spool. Without room for that it cannot be run; its lease runs out and the server decides."""
        directory = self._settings.data / "jobs" / re.sub(r"[^0-9A-Za-z-]", "_", job.id)
        spooled = SpooledJob(
            job_id=job.id,
            claim=f"{job.id}-{secrets.token_hex(4)}",
            run_id=payload.run_id if payload else "",
            directory=str(directory),
            has_secrets=bool(payload and payload.secret_env),
        )
        try:
            if not await self._spool.add_job(spooled):
                log.info("job %s is given to us again; what is under way goes on", job.id)
                return None
            await asyncio.to_thread(_fresh_directory, directory)
        except (OSError, SpoolFull) as error:
            log.error("cannot take job %s: %s", job.id, error)
            with suppress(SpoolFull):
                await self._spool.remove_job(job.id)
            await asyncio.sleep(self._credential.poll_s)
            return None
        return spooled

    async def _run_command(self, spooled: SpooledJob, payload: CommandPayload, written: asyncio.Event) -> None:
        command = CommandJob(
            job=spooled,
            payload=payload,
            settings=self._settings,
            spool=self._spool,
            environ=self._environ,
            written=written,
        )
        self._running[spooled.job_id] = command
        await self._write_status(running=True)
        log.info("job %s starts", spooled.job_id)
        try:
            outcome = await command.run()
        finally:
            del self._running[spooled.job_id]
            await self._write_status(running=True)
        log.info("job %s ended: %s", spooled.job_id, outcome.error or "succeeded")

    async def _renew(self, job_id: str) -> None:
        """Keep the lease; end the command when the server cancels the job or has given it away."""
        while True:
            await asyncio.sleep(self._settings.renew_s)
            try:
                reply = await self._api.renew(job_id)
            except ServerAway as error:
                self._missed(error)
                continue
            except RequestRefused as error:
                log.warning("job %s is not ours any more: %s", job_id, error)
                await self._stop_job(job_id, Reason.LEASE_LOST)
                return
            self._seen()
            if reply.cancel:
                await self._stop_job(job_id, Reason.CANCELLED)

    async def _stop_job(self, job_id: str, reason: Reason) -> None:
        if (job := self._running.get(job_id)) is not None:
            log.info("job %s is ended: %s", job_id, reason)
            await job.stop(reason)

    async def _deliver(self, job: SpooledJob, written: asyncio.Event) -> None:
        """Deliver a job's records; its lease is renewed until the server has its completion."""
        renewing = asyncio.create_task(self._renew(job.job_id))
        renewing.add_done_callback(self._ended)
        try:
            await Delivery(self._api, self._spool, job, written=written, server_back=self._server_back).run()
        finally:
            renewing.cancel()

    def _seen(self) -> None:
        self._last_contact = time.time()
        if self._away:
            self._away = False
            log.info("the server answers again")
            self._server_back.set()
            asyncio.get_running_loop().call_soon(self._server_back.clear)

    def _missed(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            log.warning("cannot reach the server, will keep trying: %s", error)

    async def _write_status(self, *, running: bool) -> None:
        status = {
            "running": running,
            "started_at": self._started,
            "last_contact_at": self._last_contact,
            "server_answers": self._last_contact is not None and not self._away,
            "jobs": sorted(self._running),
            "waiting_records": await self._spool.waiting(),
        }
        try:
            await asyncio.to_thread(write_private, self._settings.data / "status.json", msgspec.json.encode(status) + b"\n")
        except OSError as error:
            log.warning("cannot write the status file: %s", error)


def _fresh_directory(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, mode=0o700)
