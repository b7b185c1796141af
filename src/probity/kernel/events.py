"""Transactional events: a fact is published in the transaction that makes it true, and every subscriber gets a task of its own.

`publish` writes one row. The task runner replaces it by one task per subscriber, in one transaction, so a subscriber that fails is
repeated without the others, and a publisher needs to know no subscriber.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final
from uuid import UUID

import msgspec

from probity.kernel.db import Tx
from probity.kernel.ids import new_id
from probity.kernel.principal import OrgId
from probity.kernel.queue import NewTask, add_tasks

if TYPE_CHECKING:
    from probity.kernel.tasks import TaskContext

EVENT_PREFIX: Final = "event:"


class Event(msgspec.Struct, frozen=True):
    """A fact in the past tense; subclasses carry ids, not copies, and set `kind`, which is stored and must stay the same."""

    kind: ClassVar[str]


class Subscription(msgspec.Struct, frozen=True):
    """Calls `handler(event, ctx)` for each `event`; `name` is stored and must stay the same. Handlers may be called again."""

    event: type[Event]
    name: str
    handler: "Callable[[Any, TaskContext], Awaitable[None]]"
    max_attempts: int = 10
    timeout_s: int = 60

    @property
    def task_kind(self) -> str:
        return f"on:{self.event.kind}:{self.name}"


async def publish(tx: Tx, event: Event, *, org_id: OrgId | None, correlation_id: UUID | None = None) -> None:
    """Publish with the caller's transaction: everyone who subscribed hears of it if, and only if, it commits.

    An event that no server has a subscriber for waits in the queue until one has: publish what somebody wants to know.
    """
    await add_tasks(tx, [NewTask(id=new_id(), org_id=org_id, kind=EVENT_PREFIX + event.kind, payload=event, correlation_id=correlation_id)])
