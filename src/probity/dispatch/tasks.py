"""Background work of dispatch."""

from typing import ClassVar, Final

import structlog

from probity.dispatch import store
from probity.dispatch.events import JOBS_WAITING
from probity.kernel.queue import TASKS, JobState
from probity.kernel.tasks import Handler, Periodic, Task, TaskContext

log = structlog.get_logger(__name__)

_EVERY_S: Final = 5.0
_BATCH: Final = 1000


class SweepLeases(Task, frozen=True):
    """Decide about jobs whose agent stopped renewing: back to the queue, or an end with a reason."""

    kind: ClassVar[str] = "dispatch.sweep_leases"


async def sweep_leases(_task: SweepLeases, ctx: TaskContext) -> None:
    swept = _BATCH
    while swept == _BATCH:
        async with ctx.db.system() as tx:
            jobs = await store.sweep_leases_all_tenants(tx, now=ctx.clock.now(), limit=_BATCH)
            for job in jobs:
                if job.state is JobState.QUEUED:
                    tx.touch(JOBS_WAITING, str(job.org_id))
            tx.touch(TASKS)
        swept = len(jobs)
        if jobs:
            log.info("dispatch.leases.swept", count=swept)


HANDLERS: Final[dict[type[Task], Handler]] = {SweepLeases: sweep_leases}
PERIODIC: Final = (Periodic("dispatch.sweep_leases", _EVERY_S, SweepLeases()),)
