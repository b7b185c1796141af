"""Operations on the fleet: how agents join, prove who they are, stay alive and leave."""

import secrets
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
import structlog

from probity.audit import service as audit
from probity.audit.models import Action, Status
from probity.fleet import rules, store
from probity.fleet.errors import (
    AgentNameTaken,
    AgentNotFound,
    AgentRejected,
    EnrollmentNameRequired,
    EnrollmentNameTaken,
    EnrollmentRefused,
    EnrollmentTokenInvalid,
    SecretMissing,
    TokenNotFound,
)
from probity.fleet.events import AGENTS_CHANGED
from probity.fleet.models import (
    Agent,
    AgentCredential,
    AgentStatus,
    Enrollment,
    EnrollmentToken,
    EnrollmentTokenId,
    Heartbeat,
    MintedAgent,
    NewAgent,
    NewToken,
    PublicKey,
    Rejection,
)
from probity.kernel.clock import Clock
from probity.kernel.db import Database, Tx
from probity.kernel.errors import Invalid, TooMany
from probity.kernel.groupcommit import GroupCommit
from probity.kernel.ids import new_id, parse_id
from probity.kernel.limits import Limiter, Per, Policy
from probity.kernel.principal import AgentId, CredentialKind, OrgId, Principal, PrincipalKind
from probity.kernel.secret import Secret

log = structlog.get_logger(__name__)

# Source: secrets.md 4. Checked after the credential, per agent; a refused heartbeat is not counted.
HEARTBEAT_LIMIT: Final = Policy(name="agent:heartbeat", limit=6, window_s=60, per=Per.AGENT)
# Whoever guesses credentials must not be able to fill the audit trail: so many rows per agent and per address.
_REJECTIONS_PER_AGENT: Final = Policy(name="audit:agent-rejected", limit=10, window_s=60)
_REJECTIONS_PER_ADDRESS: Final = Policy(name="audit:address-rejected", limit=10, window_s=60)
_REJECTIONS_IN_ALL: Final = Policy(name="audit:rejected", limit=100, window_s=60)
_SECRET_BYTES: Final = 32
_SECRET_HEADER: Final = "x-agent-secret"


class FleetService:
    """
    Args:
        limiter: counts heartbeats and rejected credentials; shared between servers when Redis is configured.
        heartbeat_interval_s: how often agents are told to send a sign of life.
    """

    def __init__(self, db: Database, clock: Clock, limiter: Limiter, *, heartbeat_interval_s: int = 30) -> None:
        self.heartbeat_interval_s = heartbeat_interval_s
        self._db = db
        self._clock = clock
        self._limiter = limiter
        self._beats = GroupCommit[tuple[AgentCredential, Heartbeat], bool](
            self._save_beats, key=lambda item: msgspec.structs.astuple(item[0])
        )

    # Administration

    async def mint(self, principal: Principal, new: NewAgent) -> MintedAgent:
        """Add an agent without a token; its secret is in the reply and nowhere else."""
        principal.require("agent.mint")
        new = msgspec.structs.replace(new, name=rules.agent_name(new.name))
        agent_id, secret = AgentId(new_id()), _new_secret()
        metadata = {"name": new.name} | ({"public_key_algorithm": new.public_key.algorithm} if new.public_key else {})
        async with self._db.transaction(principal) as tx:
            await store.insert_agent(
                tx,
                principal.org_id,
                agent_id,
                new,
                secret_hash=rules.secret_hash(secret.reveal()),
                status=AgentStatus.ACTIVE,
                now=self._clock.now(),
            )
            await audit.record(tx, principal, Action.AGENT_MINT, f"agent:{agent_id}", metadata=metadata)
            tx.touch(AGENTS_CHANGED, str(principal.org_id))
        return MintedAgent(agent_id, new.name, secret)

    async def list_agents(self, principal: Principal) -> list[Agent]:
        """Return every agent of the organization, revoked ones too, the oldest first."""
        principal.require("agent.list")
        async with self._db.transaction(principal) as tx:
            return await store.list_agents(tx, principal.org_id)

    async def get_agent(self, principal: Principal, agent_id: AgentId) -> Agent:
        """
        Raises:
            AgentNotFound: the organization has no such agent.
        """
        principal.require("agent.list")
        async with self._db.transaction(principal) as tx:
            agent = await store.find_agent(tx, principal.org_id, agent_id)
        if agent is None:
            raise AgentNotFound
        return agent

    async def agent_names(self, principal: Principal, agent_ids: Iterable[AgentId]) -> dict[AgentId, str]:
        """Return the names of those agents that the caller's organizations have or had. Checks no permission: for texts of the trail."""
        async with self._db.transaction(principal) as tx:
            return await store.agent_names(tx, principal.org_ids, list(agent_ids))

    async def resolve_agent_in(self, tx: Tx, principal: Principal, text: str) -> Agent:
        """Return the live agent that `text` names, by name or by id in any spelling, in the caller's transaction.

        Raises:
            AgentNotFound: there is none, or it was revoked.
        """
        agent = await store.find_agent_by_name(tx, principal.org_id, text)
        if agent is None:
            try:
                agent = await store.find_agent(tx, principal.org_id, parse_id(AgentId, text))
            except Invalid:
                agent = None
        if agent is None or agent.revoked_at is not None:
            raise AgentNotFound
        return agent

    async def revoke(self, principal: Principal, agent_id: AgentId, reason: str | None = None) -> None:
        """End an agent's credential for good; its next call in any server is refused. Safe to repeat.

        Raises:
            AgentNotFound: the organization has no such agent.
        """
        principal.require("agent.revoke")
        async with self._db.transaction(principal) as tx:
            status = await store.lock_agent_status(tx, principal.org_id, agent_id)
            if status is None:
                raise AgentNotFound
            if status is AgentStatus.REVOKED:
                return
            await store.revoke_agent(tx, principal.org_id, agent_id, by=principal.actor, reason=reason, now=self._clock.now())
            metadata = {"agent_id": str(agent_id), "reason": reason or ""}
            await audit.record(tx, principal, Action.AGENT_REVOKED, f"agent:{agent_id}", metadata=metadata)
            tx.touch(AGENTS_CHANGED, str(principal.org_id))

    async def create_token(
        self, principal: Principal, *, name: str | None = None, ttl_s: int = 900, max_uses: int = 1, tags: Sequence[str] = ()
    ) -> NewToken:
        """Make an enrolment token that admits `max_uses` machines within `ttl_s` seconds; shown once."""
        principal.require("agent.mint")
        token_id, secret, now = EnrollmentTokenId(new_id()), _new_secret(), self._clock.now()
        expires_at = now + timedelta(seconds=ttl_s)
        async with self._db.transaction(principal) as tx:
            await store.insert_token(
                tx,
                principal.org_id,
                token_id,
                token_hash=rules.secret_hash(secret.reveal()),
                name=name,
                tags=tags,
                max_uses=max_uses,
                expires_at=expires_at,
                created_by=principal.actor,
                now=now,
            )
            await audit.record(
                tx,
                principal,
                Action.AGENT_ENROLLMENT_TOKEN_CREATED,
                f"enrollment_token:{token_id}",
                metadata={
                    "enrollment_token_id": str(token_id),
                    "expires_at": expires_at.isoformat(),
                    "max_uses": max_uses,
                    "tags": list(tags),
                },
            )
        return NewToken(token_id, secret, expires_at)

    async def list_tokens(self, principal: Principal, *, before: EnrollmentTokenId | None = None, limit: int = 50) -> list[EnrollmentToken]:
        """Return a page of tokens (never their secrets) older than `before`, the newest first."""
        principal.require("agent.mint")
        async with self._db.transaction(principal) as tx:
            return await store.list_tokens(tx, principal.org_id, before=before, limit=limit)

    async def revoke_token(self, principal: Principal, token_id: EnrollmentTokenId) -> None:
        """
        Raises:
            TokenNotFound: there is no such token, or it admits nobody any more.
        """
        principal.require("agent.mint")
        async with self._db.transaction(principal) as tx:
            if not await store.revoke_token(tx, principal.org_id, token_id, by=principal.actor, now=self._clock.now()):
                raise TokenNotFound
            await audit.record(tx, principal, Action.AGENT_ENROLLMENT_TOKEN_REVOKED, f"enrollment_token:{token_id}")

    # What agents do

    async def enrol(self, enrollment: Enrollment, *, address: str) -> MintedAgent:
        """Make the machine that presents a good token an agent; the token counts one use in the same transaction.

        Args:
            address: the caller's, for counting refusals.

        Raises:
            EnrollmentRefused: the token or the name does not admit it; a token that was good stays usable.
        """
        if not enrollment.token:
            raise EnrollmentTokenInvalid
        if not enrollment.name.strip():
            raise EnrollmentNameRequired
        agent_id, secret, now = AgentId(new_id()), _new_secret(), self._clock.now()
        async with self._db.system() as tx:
            token = await store.lock_token_all_tenants(tx, rules.secret_hash(enrollment.token.reveal()))
            refusal = EnrollmentTokenInvalid() if token is None else rules.check_token(token, now)
            if token is None or refusal is not None:
                await self._record_refused_enrollment(tx, token, refusal, address)
            else:
                await self._admit(tx, token, enrollment, agent_id, secret, now)
        if refusal is not None:
            raise refusal
        return MintedAgent(agent_id, enrollment.name.strip(), secret)

    async def _admit(self, tx: Tx, token: EnrollmentToken, facts: Enrollment, agent_id: AgentId, secret: Secret, now: datetime) -> None:
        new = NewAgent(name=rules.agent_name(facts.name), capabilities=facts.capabilities, tags=tuple({*token.tags, *facts.tags}))
        secret_hash = rules.secret_hash(secret.reveal())
        try:
            await store.insert_agent(tx, token.org_id, agent_id, new, secret_hash=secret_hash, status=AgentStatus.ENROLLED, now=now)
        except AgentNameTaken as error:
            raise EnrollmentNameTaken from error
        await store.save_enrollment_all_tenants(tx, token, agent_id, facts, now)
        await audit.record(
            tx,
            agent_principal(agent_id, token.org_id, new.name),
            Action.AGENT_ENROLLED,
            f"agent:{agent_id}",
            metadata={
                "agent_id": str(agent_id),
                "enrollment_token_id": str(token.id),
                "cluster_name": facts.cluster_name,
                "provider_type": facts.provider_type,
                "agent_version": facts.version,
                "capabilities": list(facts.capabilities),
            },
        )
        tx.touch(AGENTS_CHANGED, str(token.org_id))

    async def authenticate(self, credential: AgentCredential, *, address: str) -> Principal:
        """Return the agent as a principal.

        Raises:
            AgentRejected: the credential is not live; the reason is in the audit trail.
        """
        agent = await store.check_credential_all_tenants(self._db, credential)
        if agent is None:
            raise await self.rejected(credential.agent_id, address=address)
        return agent_principal(agent.id, agent.org_id, agent.name)

    async def heartbeat(self, credential: AgentCredential, beat: Heartbeat, *, address: str) -> datetime:
        """Note a sign of life durably and return the server's time. Shares its statement with heartbeats that arrive meanwhile.

        Raises:
            AgentRejected: the credential is not live.
            TooMany: more than 6 in 60 s.
        """
        # Counted under the credential, not the id alone: who only guesses cannot use up the agent's budget.
        key = f"{credential.agent_id}:{credential.secret_hash[:8].hex()}"
        verdict = await self._limiter.hit(HEARTBEAT_LIMIT, key)
        if not verdict.allowed:
            await self.authenticate(credential, address=address)
            raise TooMany("rate limit exceeded", retry_after_s=-int(-verdict.retry_after_s // 1))
        if not await self._beats.submit((credential, beat)):
            raise await self.rejected(credential.agent_id, address=address)
        return self._clock.now()

    async def set_public_key(self, principal: Principal, key: PublicKey) -> None:
        """Replace the calling agent's public key."""
        agent_id = _agent_id(principal)
        async with self._db.transaction(principal) as tx:
            if await store.lock_agent_status(tx, principal.org_id, agent_id) in (None, AgentStatus.REVOKED):
                raise AgentRejected
            await store.save_public_key(tx, principal.org_id, agent_id, key)
            await audit.record(
                tx,
                principal,
                Action.AGENT_PUBLIC_KEY_SET,
                f"agent:{agent_id}",
                metadata={"algorithm": key.algorithm, "public_key_sha": rules.key_digest(key)},
            )

    async def rejected(self, agent_id: AgentId, *, address: str) -> AgentRejected:
        """Record why a credential was not accepted and return the error to raise. The number of rows is bounded."""
        async with self._db.system() as tx:
            stored = await store.credential_state_all_tenants(tx, agent_id)
        reason = _reason(stored)
        log.info("fleet.agent.rejected", agent_id=str(agent_id), reason=reason.value, address=address)
        # Outside of a transaction: the budget may be in Redis, and whoever guesses must not hold the few connections of the system role.
        if not await self._may_record(str(agent_id) if stored else None, address):
            return AgentRejected()
        async with self._db.system() as tx:
            await audit.record(
                tx,
                agent_principal(agent_id, stored.org_id if stored else None, ""),
                Action.AGENT_AUTH_REJECTED,
                f"agent:{agent_id}",
                status=Status.DENIED,
                metadata={"reason": reason.value},
            )
        return AgentRejected()

    async def _record_refused_enrollment(
        self, tx: Tx, token: EnrollmentToken | None, refusal: EnrollmentRefused | None, address: str
    ) -> None:
        if refusal is None or refusal.reason is None or not await self._may_record(str(token.id) if token else None, address):
            return
        org_ids = (token.org_id,) if token else ()
        await audit.record(
            tx,
            Principal(kind=PrincipalKind.ANONYMOUS, actor="agent:enroll", org_ids=org_ids, active_org=token.org_id if token else None),
            Action.AGENT_ENROLLMENT_REJECTED,
            "agent_enrollment_token",
            status=Status.DENIED,
            metadata={"reason": refusal.reason},
        )

    async def _may_record(self, known: str | None, address: str) -> bool:
        """Return whether one more refusal may be recorded: per agent or token when it is known, else per address and in all."""
        if known is not None:
            return (await self._limiter.hit(_REJECTIONS_PER_AGENT, known)).allowed
        if not (await self._limiter.hit(_REJECTIONS_PER_ADDRESS, address)).allowed:
            return False
        return (await self._limiter.hit(_REJECTIONS_IN_ALL, "")).allowed

    async def _save_beats(self, beats: list[tuple[AgentCredential, Heartbeat]]) -> list[bool]:
        return await store.save_heartbeats_all_tenants(self._db, beats, self._clock.now())


def agent_principal(agent_id: AgentId, org_id: OrgId | None, name: str) -> Principal:
    """Return an agent as the caller: it holds no permission; the routes of agents are opened by what it is."""
    return Principal(
        kind=PrincipalKind.AGENT,
        actor=f"agent:{agent_id}",
        display=f"Agent {name}",
        org_ids=(org_id,) if org_id else (),
        active_org=org_id,
        credential=CredentialKind.AGENT_SECRET,
        agent_id=agent_id,
    )


def credential_of(agent_id: AgentId, secret: str) -> AgentCredential:
    """Return what an agent presents in the form in which it is compared."""
    return AgentCredential(agent_id, rules.secret_hash(secret))


def presented(agent_id: str, header: Callable[[str], str | None]) -> AgentCredential:
    """Return the credential of a request to a path with an agent's id.

    Args:
        header: looks up a header by its name in lower case.

    Raises:
        Invalid: the id is not one.
        SecretMissing: there is no secret.
    """
    try:
        parsed = parse_id(AgentId, agent_id)
    except Invalid as error:
        raise Invalid("invalid agent id") from error
    secret = header(_SECRET_HEADER)
    if not secret:
        raise SecretMissing
    return credential_of(parsed, secret)


def _agent_id(principal: Principal) -> AgentId:
    if principal.agent_id is None:
        raise AgentRejected
    return principal.agent_id


def _new_secret() -> Secret:
    """Return 32 random bytes as 43 characters of base64url. Source: secrets.md 2.4."""
    return Secret(secrets.token_urlsafe(_SECRET_BYTES))


def _reason(stored: store.CredentialState | None) -> Rejection:
    if stored is None:
        return Rejection.UNKNOWN_AGENT
    if stored.status is AgentStatus.REVOKED:
        return Rejection.REVOKED
    return Rejection.BAD_SECRET if stored.has_secret else Rejection.NO_CREDENTIAL
