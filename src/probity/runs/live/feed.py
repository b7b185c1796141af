"""What happens in all runs of one organization, as events of the Agnox contract. Source: quality.md §7.1."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from time import time
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog

from probity.kernel.errors import NotFound, Unavailable
from probity.kernel.ids import hex24
from probity.kernel.principal import OrgId
from probity.kernel.wakeups import ANY
from probity.runs.ingest.journal import LogBody, ResultBody, StateBody
from probity.runs.live import messages
from probity.runs.live.hub import Batch
from probity.runs.live.service import LiveService
from probity.runs.live.store import StoredEvent
from probity.runs.models import EventType, RunId, RunState, floor_at

log = structlog.get_logger(__name__)

Emit = Callable[[str, dict[str, Any]], Awaitable[None]]

_STATUS: Final = {
    RunState.QUEUED: "PENDING",
    RunState.RUNNING: "RUNNING",
    RunState.PASSED: "PASSED",
    RunState.FAILED: "FAILED",
    RunState.ERROR: "ERROR",
    RunState.ABORTED: "ERROR",
}
# Runs whose end was told are remembered, so that a late event does not tell everything again.
_REMEMBERED: Final = 10_000
# Servers' clocks may differ a little; a run made this long before the first socket came still counts as new.
_SLACK_S: Final = 5.0


class OrgFeed:
    """Follows the runs of one organization while at least one socket listens, and emits what they do."""

    def __init__(self, live: LiveService, org_id: OrgId, emit: Emit) -> None:
        self._live = live
        self._org_id = org_id
        self._emit = emit
        self._cursors: OrderedDict[RunId, int] = OrderedDict()
        self._following: dict[RunId, asyncio.Task[None]] = {}
        self._opened: UUID = floor_at(time() - _SLACK_S)

    async def start(self) -> None:
        """Begin where the runs are now: what was before is read over HTTP."""
        self._cursors.update(await self._live.unfinished(self._org_id))

    async def close(self) -> None:
        tasks = list(self._following.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self, key: str) -> None:
        org, _, run = key.partition("/")
        if key == ANY:
            for run_id in list(self._cursors):
                self._follow(run_id)
        elif org == str(self._org_id):
            self._follow(RunId(UUID(run)))

    def _follow(self, run_id: RunId) -> None:
        if run_id not in self._following:
            task = self._following[run_id] = asyncio.create_task(self._tell(run_id), name=f"runs.feed.{run_id}")
            task.add_done_callback(lambda _: self._following.pop(run_id, None))

    async def _tell(self, run_id: RunId) -> None:
        """Emit what the run does until it ends; from where we were, or from its start if it began after the first socket came."""
        try:
            run = await self._live.find_in(self._org_id, run_id)
            after = self._cursors.get(run_id, 0 if run_id >= self._opened else run.last_seq)
            self._remember(run_id, after)
            async for batch in self._live.follow(run, after=after, still_allowed=_always):
                if batch is not None:
                    await self._tell_batch(run_id, batch)
                    self._remember(run_id, batch.last)
        except (NotFound, Unavailable) as error:
            # The next wake-up of this run tries again.
            log.info("runs.feed.interrupted", run_id=str(run_id), error=str(error))

    async def _tell_batch(self, run_id: RunId, batch: Batch) -> None:
        """Emit a batch with as few events as it allows: output that follows on output is one piece."""
        text: list[str] = []
        results: list[StoredEvent] = []
        for event in batch.events:
            if event.type is EventType.LOG:
                text.append(msgspec.json.decode(event.body, type=LogBody).text)
            elif event.type is EventType.RESULT:
                results.append(event)
            elif event.type in (EventType.STATUS, EventType.DONE):
                await self._flush(run_id, text, results)
                await self._emit("execution-updated", self._updated(run_id, msgspec.json.decode(event.body, type=StateBody)))
        await self._flush(run_id, text, results)

    async def _flush(self, run_id: RunId, text: list[str], results: list[StoredEvent]) -> None:
        if text:
            await self._emit("execution-log", {"taskId": str(run_id), "log": "".join(text)})
            text.clear()
        if results:
            told = [messages.message(event) for event in results]
            totals = msgspec.json.decode(results[-1].body, type=ResultBody).totals
            who = {"taskId": str(run_id), "organizationId": hex24(self._org_id)}
            await self._emit("execution-results", _plain({**who, "results": [message["result"] for message in told]}))
            await self._emit("execution-updated", _plain({**who, "totals": totals}))
            results.clear()

    def _updated(self, run_id: RunId, body: StateBody) -> dict[str, Any]:
        """A client merges this into the row that it shows, so there is no key without a meaning."""
        error = "Aborted by user" if body.state is RunState.ABORTED else body.reason_code if body.state is RunState.ERROR else None
        said = {
            "taskId": str(run_id),
            "organizationId": hex24(self._org_id),
            "status": _STATUS[body.state],
            "name": body.name,
            "trigger": body.trigger,
            "command": " ".join(body.command) if body.command else None,
            "startTime": body.started_at,
            "endTime": body.finished_at,
            "error": error,
            "exitCode": body.exit_code,
            "totals": body.totals,
        }
        return _plain({name: value for name, value in said.items() if value is not None})

    def _remember(self, run_id: RunId, seq: int) -> None:
        self._cursors[run_id] = seq
        self._cursors.move_to_end(run_id)
        while len(self._cursors) > _REMEMBERED:
            self._cursors.popitem(last=False)


async def _always() -> bool:
    return True


def _plain(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the payload in types that every JSON encoder knows."""
    plain: dict[str, Any] = msgspec.to_builtins(payload)
    return plain
