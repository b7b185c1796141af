"""The vocabulary of dispatch."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final, NewType
from uuid import UUID

import msgspec

from probity.kernel.principal import AgentId, OrgId
from probity.kernel.queue import JobState

JobId = NewType("JobId", UUID)

# What agents of the secrets contract do. Source: secrets.md 5.15.
CONTRACT_KINDS: Final = frozenset({"sync", "discover", "verify", "delete", "patch", "read"})
# What Probity's own agents do. An agent that declares one of these as a capability is ours and gets no contract jobs.
OWN_KINDS: Final = frozenset({"command"})

# Source: secrets.md 8.2; design §6.
LEASE_S: Final = 30.0
# How long an expired lease of a contract job may still be completed or claimed again. Source: secrets.md 8.1, `jobs-recovery`.
CONTRACT_GRACE_S: Final = 30.0


class Reason(StrEnum):
    """Why the server itself ended a job."""

    LEASE_EXPIRED = "lease_expired"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    CANCELLED = "cancelled"


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job to be queued. Who may take it: `agent_id`, agents that have all `tags`, agents that declare `capability`.

    Kinds of Probity's own need the capability of the same name when none is given. Higher `priority` goes first, then the older job.
    """

    kind: str
    payload: Mapping[str, object] = {}
    agent_id: AgentId | None = None
    tags: tuple[str, ...] = ()
    capability: str | None = None
    priority: int = 0
    timeout_s: int = 3600
    max_attempts: int = 3
    run_id: UUID | None = None
    request_id: UUID | None = None
    correlation_id: UUID | None = None
    agent_scope: Mapping[str, object] = {}


class Job(msgspec.Struct, frozen=True, kw_only=True):
    id: JobId
    org_id: OrgId
    kind: str
    state: JobState
    agent_id: AgentId | None
    tags: tuple[str, ...]
    capability: str | None
    priority: int
    run_id: UUID | None
    correlation_id: UUID
    claimed_by: AgentId | None
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


class ClaimedJob(msgspec.Struct, frozen=True):
    """A job that an agent now holds until `claim_expires_at`. `payload` is JSON as it goes over the wire."""

    id: JobId
    kind: str
    payload: msgspec.Raw
    correlation_id: UUID
    claim_expires_at: datetime


class CompletionStatus(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says at the end of a job."""

    status: CompletionStatus
    error: str | None = None
    reason_code: str | None = None
    result: Mapping[str, object] | None = None


class Renewal(msgspec.Struct, frozen=True):
    """A longer lease; `cancel` tells the agent to stop the work and complete."""

    claim_expires_at: datetime
    cancel: bool
