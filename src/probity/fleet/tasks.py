"""Background work of the fleet."""

from typing import ClassVar, Final

import structlog

from probity.fleet import store
from probity.kernel.tasks import Handler, Periodic, Task, TaskContext

log = structlog.get_logger(__name__)

# Source: secrets.md 8.1, `agents-stale`.
_STALE_AFTER_S: Final = 300.0
_EVERY_S: Final = 60.0


class MarkStaleAgents(Task, frozen=True):
    """Turn agents that have been silent for five minutes into stale ones."""

    kind: ClassVar[str] = "fleet.mark_stale"


async def mark_stale_agents(_task: MarkStaleAgents, ctx: TaskContext) -> None:
    async with ctx.db.system() as tx:
        count = await store.mark_stale_all_tenants(tx, now=ctx.clock.now(), after_s=_STALE_AFTER_S)
    if count:
        log.info("fleet.agents.stale", count=count)


HANDLERS: Final[dict[type[Task], Handler]] = {MarkStaleAgents: mark_stale_agents}
PERIODIC: Final = (Periodic("fleet.mark_stale", _EVERY_S, MarkStaleAgents()),)
