"""The vocabulary of the trail. `Action` is closed: what is not listed here cannot be recorded."""

from datetime import datetime
from enum import StrEnum
from typing import Final, NewType
from uuid import UUID

import msgspec

AuditEventId = NewType("AuditEventId", UUID)

# The chain of events that belong to no organization.
INSTALLATION: Final = UUID(int=0)


class Status(StrEnum):
    SUCCESS = "success"
    FAILURE = "failure"
    DENIED = "denied"


class Action(StrEnum):
    """What can happen. The spelling is wire format; actions of the contract keep its spelling.

    Source: secrets.md §6.20; Probity's own follow the same `noun.verb` form.
    """

    # Sign-in and sessions
    AUTH_LOGIN = "auth.login"
    AUTH_LOGOUT = "auth.logout"
    AUTH_LOCKOUT_APPLIED = "auth.lockout.applied"
    AUTH_LOCKOUT_APPLY_FAILED = "auth.lockout.apply_failed"
    AUTH_LOCKOUT_CLEAR_FAILED = "auth.lockout.clear_failed"
    AUTH_BOOTSTRAP_ADMIN = "auth.bootstrap_admin"
    BREAK_GLASS_LOGIN = "BREAK_GLASS_LOGIN"
    SESSION_CREATE = "session.create"
    SESSION_REVOKE = "session.revoke"
    SESSION_REVOKE_ALL = "session.revoke_all"

    # Organizations, users, keys
    ORGANIZATION_CREATE = "organization.create"
    ORGANIZATION_UPDATE = "organization.update"
    MEMBERSHIP_CREATE = "membership.create"
    MEMBERSHIP_UPDATE = "membership.update"
    MEMBERSHIP_DELETE = "membership.delete"
    USER_CREATE = "user.create"
    USER_UPDATE = "user.update"
    USER_DISABLE = "user.disable"
    USER_PASSWORD_RESET = "user.password_reset"
    KEY_CREATE = "key.create"
    KEY_UPDATE = "key.update"
    KEY_REVOKE = "key.revoke"

    # Projects
    PROJECT_CREATE = "project.create"
    PROJECT_UPDATE = "project.update"
    PROJECT_DELETE = "project.delete"

    # Fleet
    AGENT_MINT = "agent.mint"
    AGENT_AUTH_REJECTED = "agent.auth.rejected"
    AGENT_PUBLIC_KEY_SET = "agent.public_key.set"
    AGENT_REVOKED = "agent.revoked"
    AGENT_UPDATE = "agent.update"
    AGENT_ENROLLMENT_TOKEN_CREATED = "agent.enrollment_token.created"
    AGENT_ENROLLMENT_TOKEN_REVOKED = "agent.enrollment_token.revoked"
    AGENT_ENROLLED = "agent.enrolled"
    AGENT_ENROLLMENT_REJECTED = "agent.enrollment.rejected"

    # Jobs
    JOB_ENQUEUE = "job.enqueue"
    JOB_CLAIM = "job.claim"
    JOB_COMPLETE = "job.complete"
    JOB_COMPLETE_IDEMPOTENT = "job.complete.idempotent"
    JOB_CANCEL = "job.cancel"
    JOB_EXPIRE = "job.expire"

    # Runs
    RUN_CREATE = "run.create"
    RUN_FINISH = "run.finish"
    RUN_ABORT = "run.abort"
    RUN_IMPORT = "run.import"
    RUN_UPDATE = "run.update"
    RUN_DELETE = "run.delete"
    ARTIFACT_CREATE = "artifact.create"
    ARTIFACT_DELETE = "artifact.delete"

    # The trail and the server
    AUDIT_EXPORT = "audit.export"
    AUDIT_PRUNE = "audit.prune"
    MASTER_KEY_ROTATE = "master_key.rotate"
    TASK_RETRY = "task.retry"


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event as it is stored. `metadata` is the text that PostgreSQL prints for the column, because the hash covers that text."""

    id: AuditEventId
    org_id: UUID | None
    occurred_at: datetime
    actor: str
    action: str
    resource: str
    status: Status
    correlation_id: UUID
    metadata: str


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What a listing is narrowed to: exact matches, and `since` (inclusive) to `until` (exclusive)."""

    actor: str | None = None
    action: str | None = None
    resource: str | None = None
    correlation_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 100


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One link of a chain. `org_id` is `INSTALLATION` for events that belong to no organization."""

    org_id: UUID
    seq: int
    event_id: UUID
    event_hash: bytes
    prev_hash: bytes
    chain_hash: bytes


class CheckpointKind(StrEnum):
    HEAD = "head"
    BOUNDARY = "boundary"


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A signed statement that a chain's link `seq` had `chain_hash`; a boundary also says that retention removed everything up to it."""

    org_id: UUID
    kind: CheckpointKind
    seq: int
    chain_hash: bytes
    signed_at: datetime
    key_id: str
    signature: bytes


class EndorsedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A public key (raw Ed25519) and the statement of another key that it is ours."""

    key_id: str
    public_key: bytes
    endorsed_by: str
    endorsement: bytes


class BreakReason(StrEnum):
    """What is wrong with a trail; the spelling is API."""

    EVENT_CHANGED = "event_changed"
    EVENT_MISSING = "event_missing"
    EVENT_UNSEALED = "event_unsealed"
    LINK_CHANGED = "link_changed"
    LINK_MISSING = "link_missing"
    LINK_REORDERED = "link_reordered"
    CHECKPOINT_CHANGED = "checkpoint_changed"
    CHECKPOINT_DIFFERS = "checkpoint_differs"
    TAIL_CUT = "tail_cut"
    HEADS_FILE_CHANGED = "heads_file_changed"
    EXPORT_CHANGED = "export_changed"


class Break(msgspec.Struct, frozen=True, kw_only=True):
    """The first thing that is wrong: where in the chain, and with which event when there is one."""

    reason: BreakReason
    seq: int | None
    event_id: UUID | None


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of checking one chain.

    `first_seq` is above 1 when retention removed what came before. `checkpoints` counts signed heads that were held against the chain,
    those in the file outside the database included. `key_trusted` is False when only the keys inside an export vouch for it.
    """

    org_id: UUID
    verified: bool
    key_trusted: bool
    events: int
    first_seq: int
    last_seq: int
    chain_hash: str
    checkpoints: int
    broken: Break | None
