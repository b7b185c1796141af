"""Wire shapes of dispatch. Names and formats are the contract's (secrets.md 6.4, 6.14); what we add comes after them."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec

from probity.dispatch.errors import InvalidJob
from probity.dispatch.models import CONTRACT_KINDS, ClaimedJob, Completion, CompletionStatus, Job, NewJob, Renewal
from probity.kernel.clock import rfc3339_nanos
from probity.kernel.ids import parse_id
from probity.kernel.principal import AgentId

Facts = Annotated[dict[str, Any], msgspec.Meta(max_length=1000)]
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class NewJobIn(msgspec.Struct, frozen=True):
    """The contract's fields, then ours: who may take the job, how soon and how often."""

    job_type: Annotated[str, msgspec.Meta(max_length=200)] = ""
    agent_scope: Facts | None = None
    payload: Facts | None = None
    request_id: UUID | None = None
    correlation_id: UUID | None = None
    agent_id: Word | None = None
    tags: Annotated[list[Word], msgspec.Meta(max_length=50)] = []
    priority: Annotated[int, msgspec.Meta(ge=-1000, le=1000)] = 0

    def model(self) -> NewJob:
        """
        Raises:
            InvalidJob: no kind, or one that is not queued here. The texts are the contract's.
        """
        if not self.job_type:
            raise InvalidJob("jobs: JobType is required")
        if self.job_type not in CONTRACT_KINDS:
            hint = "; commands are started with POST /api/v1/runs" if self.job_type == "command" else ""
            raise InvalidJob(f"jobs: create: unknown job type {self.job_type!r}{hint}")
        if self.request_id is not None:
            # Access requests come with the secrets domain; until then none exists that a job could belong to.
            raise InvalidJob("jobs: create: unknown request")
        return NewJob(
            kind=self.job_type,
            payload=self.payload or {},
            agent_scope=self.agent_scope or {},
            correlation_id=self.correlation_id,
            agent_id=None if self.agent_id is None else parse_id(AgentId, self.agent_id),
            tags=tuple(self.tags),
            priority=self.priority,
        )


class QueuedOut(msgspec.Struct, frozen=True):
    id: str
    correlation_id: str
    status: str

    @classmethod
    def of(cls, job: Job) -> "QueuedOut":
        return cls(str(job.id), str(job.correlation_id), job.state.value)


class JobOut(msgspec.Struct, frozen=True):
    """A job as its owner sees it; the payload is the agent's business."""

    id: str
    job_type: str
    status: str
    run_id: str | None
    correlation_id: str
    agent_id: str | None
    tags: list[str]
    capability: str | None
    priority: int
    claimed_by: str | None
    claimed_at: datetime | None
    claim_expires_at: datetime | None
    cancel_requested_at: datetime | None
    attempt: int
    max_attempts: int
    timeout_s: int
    reason_code: str | None
    error: str | None
    created_by: str
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, job: Job) -> "JobOut":
        return cls(
            id=str(job.id),
            job_type=job.kind,
            status=job.state.value,
            run_id=None if job.run_id is None else str(job.run_id),
            correlation_id=str(job.correlation_id),
            agent_id=None if job.agent_id is None else str(job.agent_id),
            tags=list(job.tags),
            capability=job.capability,
            priority=job.priority,
            claimed_by=None if job.claimed_by is None else str(job.claimed_by),
            claimed_at=job.claimed_at,
            claim_expires_at=job.claim_expires_at,
            cancel_requested_at=job.cancel_requested_at,
            attempt=job.attempt,
            max_attempts=job.max_attempts,
            timeout_s=job.timeout_s,
            reason_code=job.reason_code,
            error=job.error,
            created_by=job.created_by,
            created_at=job.created_at,
            finished_at=job.finished_at,
        )


class ClaimedOut(msgspec.Struct, frozen=True):
    id: str
    job_type: str
    payload: dict[str, Any]
    correlation_id: str
    claim_expires_at: str

    @classmethod
    def of(cls, job: ClaimedJob) -> "ClaimedOut":
        payload = msgspec.json.decode(job.payload, type=dict[str, Any])
        return cls(str(job.id), job.kind, payload, str(job.correlation_id), rfc3339_nanos(job.claim_expires_at))


class HotClaimedOut(msgspec.Struct, frozen=True):
    """`ClaimedOut` with the payload as PostgreSQL prints it, not decoded on the way."""

    id: str
    job_type: str
    payload: msgspec.Raw
    correlation_id: str
    claim_expires_at: str

    @classmethod
    def of(cls, job: ClaimedJob) -> "HotClaimedOut":
        return cls(str(job.id), job.kind, job.payload, str(job.correlation_id), rfc3339_nanos(job.claim_expires_at))


class CompleteIn(msgspec.Struct, frozen=True):
    status: CompletionStatus
    error: str | None = None
    reason_code: Annotated[str, msgspec.Meta(max_length=100)] | None = None
    result: Facts | None = None

    def model(self) -> Completion:
        return Completion(status=self.status, error=self.error, reason_code=self.reason_code, result=self.result)


class RenewalOut(msgspec.Struct, frozen=True):
    claim_expires_at: str
    cancel: bool

    @classmethod
    def of(cls, renewal: Renewal) -> "RenewalOut":
        return cls(rfc3339_nanos(renewal.claim_expires_at), renewal.cancel)
