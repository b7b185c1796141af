"""Background work of runs."""

from datetime import datetime
from typing import ClassVar, Final

from probity.kernel.db import Database
from probity.kernel.tasks import Periodic, Task, TaskContext
from probity.runs.ingest import store as ingest_store

_MONTHS_AHEAD: Final = 3


class AddRunMonths(Task, frozen=True):
    """Make the partitions of this month and the next three, so that no run ever waits for one."""

    kind: ClassVar[str] = "runs.add_months"


PERIODIC: Final = (Periodic("runs.add_months", 6 * 3600.0, AddRunMonths()),)


async def add_run_months(_task: AddRunMonths, context: TaskContext) -> None:
    await add_months(context.db, context.clock.now())


async def add_months(db: Database, now: datetime) -> None:
    month = now.date().replace(day=1)
    async with db.system() as tx:
        for _ in range(_MONTHS_AHEAD + 1):
            await ingest_store.add_month(tx, month)
            month = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
