"""The vocabulary of the fleet."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import NewType
from uuid import UUID

import msgspec

from probity.kernel.principal import AgentId, OrgId
from probity.kernel.secret import Secret

EnrollmentTokenId = NewType("EnrollmentTokenId", UUID)


class AgentStatus(StrEnum):
    """enrolled → (first heartbeat) active → (5 minutes without one) stale → (heartbeat) active; any → revoked, which is final.

    `error` and `disabled` are legal values that nothing sets. Source: secrets.md 5.16.
    """

    ENROLLED = "enrolled"
    ACTIVE = "active"
    STALE = "stale"
    ERROR = "error"
    DISABLED = "disabled"
    REVOKED = "revoked"


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as people may see it: never its credential."""

    id: AgentId
    org_id: OrgId
    name: str
    scope: Mapping[str, object]
    status: AgentStatus
    capabilities: tuple[str, ...]
    tags: tuple[str, ...]
    hostname: str | None
    os: str | None
    arch: str | None
    agent_version: str | None
    last_status: str | None
    last_seen_at: datetime | None
    revoked_at: datetime | None
    created_at: datetime


class PublicKey(msgspec.Struct, frozen=True):
    """32 bytes of X25519, the one algorithm there is."""

    raw: bytes
    algorithm: str


class NewAgent(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    scope: Mapping[str, object] = {}
    public_key: PublicKey | None = None
    capabilities: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class MintedAgent(msgspec.Struct, frozen=True):
    """The one moment at which a credential can be seen."""

    id: AgentId
    name: str
    secret: Secret


class Enrollment(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine says when it joins."""

    token: Secret
    name: str
    version: str | None = None
    capabilities: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    hostname: str | None = None
    os: str | None = None
    arch: str | None = None
    cluster_name: str | None = None
    provider_type: str | None = None
    region: str | None = None
    public_key_fingerprint: str | None = None


class EnrollmentToken(msgspec.Struct, frozen=True, kw_only=True):
    id: EnrollmentTokenId
    org_id: OrgId
    name: str | None
    tags: tuple[str, ...]
    max_uses: int
    uses: int
    expires_at: datetime
    revoked_at: datetime | None
    created_by: str
    created_at: datetime


class NewToken(msgspec.Struct, frozen=True):
    id: EnrollmentTokenId
    secret: Secret
    expires_at: datetime


class AgentCredential(msgspec.Struct, frozen=True):
    """What an agent presents: its id, and SHA-256 of its secret's text. Checked by the statement that acts on it."""

    agent_id: AgentId
    secret_hash: bytes


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """A sign of life. None and '' leave what is stored; an empty list of capabilities does not."""

    status: str | None = None
    version: str | None = None
    capabilities: tuple[str, ...] | None = None


class Rejection(StrEnum):
    """Why a credential was not accepted: for the audit trail only, the caller hears one text for all."""

    UNKNOWN_AGENT = "unknown_agent"
    REVOKED = "revoked"
    NO_CREDENTIAL = "no_credential"
    BAD_SECRET = "bad_secret"
