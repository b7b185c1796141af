"""Takes a job's records from the spool to the server, in order, until the completion is acknowledged."""

import asyncio
import logging
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from probity.agent.api import AgentApi, RequestRefused, ServerAway
from probity.agent.backoff import Backoff
from probity.agent.files import Upload
from probity.agent.spool import Item, ItemKind, Spool, SpooledJob, SpoolFull
from probity.agent.wire import LogEvent, timestamp

log = logging.getLogger("probity.agent")

# Limits of one ingest request: 1,000 events by contract; the size stays below common body limits of proxies.
BATCH_EVENTS: Final = 500
BATCH_BYTES: Final = 700_000
# The run or the job is gone, or somebody else's: no record of it will be taken, so there is no point in trying them one by one.
_STATE_REFUSALS: Final = frozenset({403, 404, 409, 410})


class Delivery:
    """Delivers the records of one job.

    Args:
        written: set whenever the spool may hold something new.
        server_back: set for a moment when any request succeeds after failures, so that waiting ends early.
    """

    def __init__(self, api: AgentApi, spool: Spool, job: SpooledJob, *, written: asyncio.Event, server_back: asyncio.Event) -> None:
        self._api = api
        self._spool = spool
        self._job = job
        self._written = written
        self._server_back = server_back
        self._backoff = Backoff()
        # Acknowledged but not deleted, because the disk was full.
        self._sent_seq = 0

    async def run(self) -> None:
        """Deliver until the completion is acknowledged, then forget the job and its directory.

        Raises:
            CredentialRefused: nothing can be delivered any more; the records stay.
        """
        completed = False
        while not completed:
            self._written.clear()
            batch = await self._spool.next_batch(self._job.job_id, after_seq=self._sent_seq, most=BATCH_EVENTS, most_bytes=BATCH_BYTES)
            if not batch:
                await self._written.wait()
                continue
            try:
                await self._deliver(batch)
            except ServerAway as error:
                await self._backoff.wait(self._server_back, error.retry_after_s)
                continue
            self._backoff.reset()
            completed = batch[-1].kind is ItemKind.COMPLETE
            await self._forget(batch[-1])
        # The directory first: on a full disk its files are the room that the spool needs to forget the job.
        await asyncio.to_thread(shutil.rmtree, self._job.directory, ignore_errors=True)
        while not await self._removed():
            await self._backoff.wait(self._server_back)

    async def _removed(self) -> bool:
        try:
            await self._spool.remove_job(self._job.job_id)
        except SpoolFull:
            return False
        return True

    async def _deliver(self, batch: list[Item]) -> None:
        try:
            await self._send(batch)
        except RequestRefused as error:
            if len(batch) == 1 or error.status in _STATE_REFUSALS:
                # The server will never take it: keeping it would hold back everything behind it.
                log.warning("the server refused %d records of job %s and they are dropped: %s", len(batch), self._job.job_id, error)
                await self._say_refused(batch[0], error)
                return
            # Something in the batch is wrong; the rest of it is not to suffer.
            middle = len(batch) // 2
            await self._deliver(batch[:middle])
            await self._deliver(batch[middle:])

    async def _say_refused(self, item: Item, error: RequestRefused) -> None:
        """Tell the run that an artifact is missing, where its reader sees it."""
        if item.kind is not ItemKind.UPLOAD:
            return
        name = msgspec.json.decode(item.body, type=Upload).name
        event = LogEvent(f"{self._job.claim}-{item.key}-refused", timestamp(), "system", f"artifact {name} is not kept: {error}\n")
        with suppress(RequestRefused):
            await self._api.send_events(self._job.run_id, [msgspec.json.encode(event)])

    async def _send(self, batch: list[Item]) -> None:
        first = batch[0]
        if first.kind is ItemKind.EVENT:
            await self._api.send_events(self._job.run_id, [item.body for item in batch])
        elif first.kind is ItemKind.UPLOAD:
            upload = msgspec.json.decode(first.body, type=Upload)
            if not Path(upload.path).is_file():
                log.warning("artifact %s of job %s is gone from this agent's disk", upload.name, self._job.job_id)
                return
            await self._api.upload(
                self._job.run_id,
                name=upload.name,
                content_type=upload.content_type,
                path=Path(upload.path),
                key=f"{self._job.claim}-{first.key}",
            )
        else:
            await self._api.complete(self._job.job_id, first.body)

    async def _forget(self, last: Item) -> None:
        self._sent_seq = last.seq
        try:
            await self._spool.acknowledge(self._job.job_id, last.seq)
        except SpoolFull:
            # Even deleting takes some room. The next batch deletes these too; a restart before that repeats them, which is harmless.
            log.warning("the agent's disk is full; delivered records stay until there is room")
