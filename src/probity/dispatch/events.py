"""Facts that dispatch publishes."""

from typing import ClassVar, Final
from uuid import UUID

from probity.kernel.events import EVENT_PREFIX, Event
from probity.kernel.queue import JobState

# Wake-up channel; key: the organization. A job may be waiting for an agent.
JOBS_WAITING: Final = "jobs"


class JobFinished(Event, frozen=True):
    """A job that belongs to a run or a request has ended: succeeded, failed, expired or cancelled. In the transaction of its end."""

    kind: ClassVar[str] = "job.finished"

    job_id: UUID
    org_id: UUID
    run_id: UUID | None
    request_id: UUID | None
    state: JobState
    reason_code: str | None


# Statements that end many jobs write the event's row themselves; a test holds its shape against `publish`.
JOB_FINISHED_TASK: Final = EVENT_PREFIX + JobFinished.kind
