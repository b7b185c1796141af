"""Background work of runs."""

from datetime import datetime
from typing import ClassVar, Final

from probity.dispatch.events import JobFinished
from probity.kernel.db import Database
from probity.kernel.events import Subscription
from probity.kernel.tasks import Handler, Periodic, RetryLater, Task, TaskContext
from probity.runs.ingest import store as ingest_store
from probity.runs.service import RunService

_MONTHS_AHEAD: Final = 3
# How long an agent's last events may take after it has completed the job: tries times seconds.
_WAITS: Final = 6
_WAIT_S: Final = 5.0


class AddRunMonths(Task, frozen=True):
    """Make the partitions of this month and the next three, so that no run ever waits for one."""

    kind: ClassVar[str] = "runs.add_months"


def subscriptions(runs: RunService) -> list[Subscription]:
    async def close_run(event: JobFinished, context: TaskContext) -> None:
        if not await runs.close_after_job(event, may_wait=context.attempt <= _WAITS):
            raise RetryLater("the agent's last events may still come", delay_s=_WAIT_S)

    return [Subscription(JobFinished, "runs.close", close_run)]


async def add_run_months(_task: AddRunMonths, context: TaskContext) -> None:
    await add_months(context.db, context.clock.now())


async def add_months(db: Database, now: datetime) -> None:
    month = now.date().replace(day=1)
    async with db.system() as tx:
        for _ in range(_MONTHS_AHEAD + 1):
            await ingest_store.add_month(tx, month)
            month = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)


HANDLERS: Final[dict[type[Task], Handler]] = {AddRunMonths: add_run_months}
PERIODIC: Final = (Periodic("runs.add_months", 6 * 3600.0, AddRunMonths()),)
