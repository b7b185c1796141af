"""Wire shapes of the fleet. Names and formats are the contract's (secrets.md 6.4); what we add comes after them."""

from datetime import datetime
from typing import Annotated, Any

import msgspec

from probity.fleet.models import Agent, Enrollment, EnrollmentToken, Heartbeat, MintedAgent, NewAgent, NewToken
from probity.fleet.rules import public_key
from probity.kernel.clock import rfc3339_nanos
from probity.kernel.secret import Secret

Text = Annotated[str, msgspec.Meta(max_length=200)]
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Words = Annotated[list[Word], msgspec.Meta(max_length=64)]
Key = Annotated[str, msgspec.Meta(max_length=1000)]
Scope = Annotated[dict[str, Any], msgspec.Meta(max_length=100)]


class MintIn(msgspec.Struct, frozen=True):
    name: Annotated[str, msgspec.Meta(max_length=10_000)] = ""
    scope: Scope = {}
    public_key: Key | None = None
    public_key_algorithm: Text | None = None
    capabilities: Words = []
    tags: Words = []

    def model(self) -> NewAgent:
        """
        Raises:
            InvalidPublicKey: there is one, and it is not a key.
        """
        key = public_key(self.public_key, self.public_key_algorithm) if self.public_key is not None else None
        return NewAgent(name=self.name, scope=self.scope, public_key=key, capabilities=tuple(self.capabilities), tags=tuple(self.tags))


class MintedOut(msgspec.Struct, frozen=True):
    id: str
    name: str
    agent_secret: str

    @classmethod
    def of(cls, minted: MintedAgent) -> "MintedOut":
        return cls(str(minted.id), minted.name, minted.secret.reveal())


class AgentOut(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`scope` is left out when empty, times when there are none; never a credential."""

    id: str
    name: str
    status: str
    scope: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    created_at: str
    last_seen_at: str | msgspec.UnsetType = msgspec.UNSET
    capabilities: list[str]
    tags: list[str]
    hostname: str | None = None
    os: str | None = None
    arch: str | None = None
    agent_version: str | None = None
    last_status: str | None = None

    @classmethod
    def of(cls, agent: Agent) -> "AgentOut":
        return cls(
            id=str(agent.id),
            name=agent.name,
            status=agent.status.value,
            scope=dict(agent.scope) if agent.scope else msgspec.UNSET,
            created_at=rfc3339_nanos(agent.created_at),
            last_seen_at=rfc3339_nanos(agent.last_seen_at) if agent.last_seen_at else msgspec.UNSET,
            capabilities=list(agent.capabilities),
            tags=list(agent.tags),
            hostname=agent.hostname,
            os=agent.os,
            arch=agent.arch,
            agent_version=agent.agent_version,
            last_status=agent.last_status,
        )


class PublicKeyIn(msgspec.Struct, frozen=True):
    public_key: Key = ""
    public_key_algorithm: Text | None = None


class HeartbeatIn(msgspec.Struct, frozen=True):
    """`cluster_name` of the contract has no effect and is ignored like any unknown field."""

    status: Text | None = None
    agent_version: Text | None = None
    capabilities: Words | None = None

    def model(self) -> Heartbeat:
        capabilities = None if self.capabilities is None else tuple(self.capabilities)
        return Heartbeat(status=self.status, version=self.agent_version, capabilities=capabilities)


class HeartbeatOut(msgspec.Struct, frozen=True):
    status: str
    server_time: str
    next_heartbeat_seconds: int

    @classmethod
    def at(cls, server_time: datetime, next_heartbeat_s: int) -> "HeartbeatOut":
        return cls("ok", rfc3339_nanos(server_time), next_heartbeat_s)


class EnrollIn(msgspec.Struct, frozen=True):
    enrollment_token: Text = ""
    agent_name: Text = ""
    agent_version: Text | None = None
    cluster_name: Text | None = None
    provider_type: Text | None = None
    region: Text | None = None
    capabilities: Words | None = None
    public_key_fingerprint: Text | None = None
    hostname: Text | None = None
    os: Text | None = None
    arch: Text | None = None
    tags: Words | None = None

    def model(self) -> Enrollment:
        return Enrollment(
            token=Secret(self.enrollment_token),
            name=self.agent_name,
            version=self.agent_version,
            capabilities=tuple(self.capabilities or ()),
            tags=tuple(self.tags or ()),
            hostname=self.hostname,
            os=self.os,
            arch=self.arch,
            cluster_name=self.cluster_name,
            provider_type=self.provider_type,
            region=self.region,
            public_key_fingerprint=self.public_key_fingerprint,
        )


class EnrolledOut(msgspec.Struct, frozen=True):
    agent_id: str
    provider_connection_id: str | None
    agent_token: str
    heartbeat_interval_seconds: int
    job_poll_interval_seconds: int


class RefusedOut(msgspec.Struct, frozen=True):
    """The contract's third error shape. Source: secrets.md 3.4."""

    error: str
    message: str


class TokenIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Word | None = None
    expires_in_seconds: Annotated[int, msgspec.Meta(ge=60, le=30 * 86400)] = 900
    max_uses: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1
    tags: Words = []


class NewTokenOut(msgspec.Struct, frozen=True):
    """The only reply that shows the token."""

    id: str
    enrollment_token: str
    expires_at: datetime

    @classmethod
    def of(cls, token: NewToken) -> "NewTokenOut":
        return cls(str(token.id), token.secret.reveal(), token.expires_at)


class TokenOut(msgspec.Struct, frozen=True):
    id: str
    name: str | None
    tags: list[str]
    max_uses: int
    uses: int
    expires_at: datetime
    revoked_at: datetime | None
    created_by: str
    created_at: datetime

    @classmethod
    def of(cls, token: EnrollmentToken) -> "TokenOut":
        return cls(
            str(token.id),
            token.name,
            list(token.tags),
            token.max_uses,
            token.uses,
            token.expires_at,
            token.revoked_at,
            token.created_by,
            token.created_at,
        )


class TokenPage(msgspec.Struct, frozen=True):
    data: list[TokenOut]
    next_cursor: str | None
