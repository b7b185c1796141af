"""SQL of the fleet."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import msgspec

from probity.fleet.errors import AgentNameTaken
from probity.fleet.models import (
    Agent,
    AgentCredential,
    AgentStatus,
    Enrollment,
    EnrollmentToken,
    EnrollmentTokenId,
    Heartbeat,
    NewAgent,
    PublicKey,
)
from probity.kernel.db import Database, Tx, execute, fetch_all, fetch_one, fetch_rows, fetch_value
from probity.kernel.principal import AgentId, OrgId


class KnownAgent(msgspec.Struct, frozen=True):
    """An agent whose credential was checked."""

    id: AgentId
    org_id: OrgId
    name: str
    capabilities: tuple[str, ...]


class CredentialState(msgspec.Struct, frozen=True):
    """What is stored about an agent whose credential was not accepted."""

    org_id: OrgId
    status: AgentStatus
    has_secret: bool


async def insert_agent(
    tx: Tx, org_id: OrgId, agent_id: AgentId, new: NewAgent, *, secret_hash: bytes, status: AgentStatus, now: datetime
) -> None:
    """Add an agent.

    Raises:
        AgentNameTaken: another live agent of the organization has the name.
    """
    try:
        await execute(
            tx,
            """
            insert into agents (id, org_id, name, scope, status, secret_hash, public_key, public_key_algorithm, capabilities, tags, created_at)
            values (:id, :org_id, :name, :scope, :status, :secret_hash, :public_key, :algorithm, :capabilities, :tags, :now)
            """,
            id=agent_id,
            org_id=org_id,
            name=new.name,
            scope=new.scope,
            status=status.value,
            secret_hash=secret_hash,
            public_key=new.public_key.raw if new.public_key else None,
            algorithm=new.public_key.algorithm if new.public_key else None,
            capabilities=list(new.capabilities),
            tags=list(new.tags),
            now=now,
        )
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name != "agents_name":
            raise
        raise AgentNameTaken(new.name) from error


async def save_enrollment_all_tenants(tx: Tx, token: EnrollmentToken, agent_id: AgentId, facts: Enrollment, now: datetime) -> None:
    """Note on the new agent what its machine said, and count the use of the token, which the caller holds locked."""
    await execute(
        tx,
        """
        update agents
           set hostname = :hostname, os = :os, arch = :arch, agent_version = :version, cluster_name = :cluster_name,
               provider_type = :provider_type, region = :region, public_key_fingerprint = :fingerprint, enrollment_token_id = :token_id
         where org_id = :org_id
           and id = :agent_id
        """,
        org_id=token.org_id,
        agent_id=agent_id,
        token_id=token.id,
        hostname=facts.hostname,
        os=facts.os,
        arch=facts.arch,
        version=facts.version,
        cluster_name=facts.cluster_name,
        provider_type=facts.provider_type,
        region=facts.region,
        fingerprint=facts.public_key_fingerprint,
    )
    await execute(
        tx,
        "update enrollment_tokens set uses = uses + 1, last_used_at = :now where org_id = :org_id and id = :token_id",
        org_id=token.org_id,
        token_id=token.id,
        now=now,
    )


async def list_agents(tx: Tx, org_id: OrgId) -> list[Agent]:
    """Return every agent, the oldest first: the contract knows no pages here."""
    return await fetch_all(
        tx,
        Agent,
        """
        select id, org_id, name, scope, status, capabilities, tags, hostname, os, arch, agent_version, last_status, last_seen_at,
               revoked_at, created_at
          from agents
         where org_id = :org_id
         order by created_at, id
        """,
        org_id=org_id,
    )


async def find_agent(tx: Tx, org_id: OrgId, agent_id: AgentId) -> Agent | None:
    return await fetch_one(
        tx,
        Agent,
        """
        select id, org_id, name, scope, status, capabilities, tags, hostname, os, arch, agent_version, last_status, last_seen_at,
               revoked_at, created_at
          from agents
         where org_id = :org_id
           and id = :agent_id
        """,
        org_id=org_id,
        agent_id=agent_id,
    )


async def find_agent_by_name(tx: Tx, org_id: OrgId, name: str) -> Agent | None:
    """Return the live agent of that name."""
    return await fetch_one(
        tx,
        Agent,
        """
        select id, org_id, name, scope, status, capabilities, tags, hostname, os, arch, agent_version, last_status, last_seen_at,
               revoked_at, created_at
          from agents
         where org_id = :org_id
           and name = :name
           and revoked_at is null
        """,
        org_id=org_id,
        name=name,
    )


async def agent_names(tx: Tx, org_ids: Sequence[OrgId], agent_ids: Sequence[AgentId]) -> dict[AgentId, str]:
    rows = await fetch_rows(
        tx,
        "select id, name from agents where org_id = any(:org_ids::uuid[]) and id = any(:agent_ids::uuid[])",
        org_ids=list(org_ids),
        agent_ids=list(agent_ids),
    )
    return {AgentId(row["id"]): row["name"] for row in rows}


async def lock_agent_status(tx: Tx, org_id: OrgId, agent_id: AgentId) -> AgentStatus | None:
    """Return the status and hold the row until the transaction ends; None when the organization has no such agent."""
    status: str | None = await fetch_value(
        tx, "select status from agents where org_id = :org_id and id = :agent_id for update", org_id=org_id, agent_id=agent_id
    )
    return None if status is None else AgentStatus(status)


async def revoke_agent(tx: Tx, org_id: OrgId, agent_id: AgentId, *, by: str, reason: str | None, now: datetime) -> None:
    await execute(
        tx,
        """
        update agents
           set status = 'revoked', secret_hash = null, revoked_at = :now, revoked_by = :by, revoked_reason = :reason
         where org_id = :org_id
           and id = :agent_id
        """,
        org_id=org_id,
        agent_id=agent_id,
        by=by,
        reason=reason,
        now=now,
    )


async def save_public_key(tx: Tx, org_id: OrgId, agent_id: AgentId, key: PublicKey) -> None:
    await execute(
        tx,
        """
        update agents
           set public_key = :raw, public_key_algorithm = :algorithm
         where org_id = :org_id
           and id = :agent_id
        """,
        org_id=org_id,
        agent_id=agent_id,
        raw=key.raw,
        algorithm=key.algorithm,
    )


async def insert_token(
    tx: Tx,
    org_id: OrgId,
    token_id: EnrollmentTokenId,
    *,
    token_hash: bytes,
    name: str | None,
    tags: Sequence[str],
    max_uses: int,
    expires_at: datetime,
    created_by: str,
    now: datetime,
) -> None:
    await execute(
        tx,
        """
        insert into enrollment_tokens (id, org_id, name, token_hash, tags, max_uses, expires_at, created_by, created_at)
        values (:id, :org_id, :name, :token_hash, :tags, :max_uses, :expires_at, :created_by, :now)
        """,
        id=token_id,
        org_id=org_id,
        name=name,
        token_hash=token_hash,
        tags=list(tags),
        max_uses=max_uses,
        expires_at=expires_at,
        created_by=created_by,
        now=now,
    )


async def list_tokens(tx: Tx, org_id: OrgId, *, before: EnrollmentTokenId | None, limit: int) -> list[EnrollmentToken]:
    """Return a page of tokens, the newest first, from those older than `before`."""
    return await fetch_all(
        tx,
        EnrollmentToken,
        """
        select id, org_id, name, tags, max_uses, uses, expires_at, revoked_at, created_by, created_at
          from enrollment_tokens
         where org_id = :org_id
           and (:before::uuid is null or id < :before)
         order by id desc
         limit :limit
        """,
        org_id=org_id,
        before=before,
        limit=limit,
    )


async def revoke_token(tx: Tx, org_id: OrgId, token_id: EnrollmentTokenId, *, by: str, now: datetime) -> bool:
    """Revoke a token that still admits somebody; False when there is none."""
    count = await execute(
        tx,
        """
        update enrollment_tokens
           set revoked_at = :now, revoked_by = :by
         where org_id = :org_id
           and id = :token_id
           and revoked_at is null
           and uses < max_uses
        """,
        org_id=org_id,
        token_id=token_id,
        by=by,
        now=now,
    )
    return count == 1


async def lock_token_all_tenants(tx: Tx, token_hash: bytes) -> EnrollmentToken | None:
    """Find a token by its hash and hold its row, so that two machines never share its last use."""
    return await fetch_one(
        tx,
        EnrollmentToken,
        """
        select id, org_id, name, tags, max_uses, uses, expires_at, revoked_at, created_by, created_at
          from enrollment_tokens
         where token_hash = :token_hash
           for update
        """,
        token_hash=token_hash,
    )


async def check_credential_all_tenants(db: Database, credential: AgentCredential) -> KnownAgent | None:
    """Return the agent whose live credential this is, or None."""
    async with db.system_connection() as tx:
        return await fetch_one(
            tx,
            KnownAgent,
            """
            select id, org_id, name, capabilities
              from agents
             where id = :agent_id
               and secret_hash = :secret_hash
               and status <> 'revoked'
            """,
            agent_id=credential.agent_id,
            secret_hash=credential.secret_hash,
        )


async def credential_state_all_tenants(tx: Tx, agent_id: AgentId) -> CredentialState | None:
    return await fetch_one(
        tx,
        CredentialState,
        "select org_id, status, secret_hash is not null as has_secret from agents where id = :agent_id",
        agent_id=agent_id,
    )


async def save_heartbeats_all_tenants(db: Database, beats: Sequence[tuple[AgentCredential, Heartbeat]], now: datetime) -> list[bool]:
    """Note signs of life, each by the agent's live credential, in one statement; False where the credential is not live."""
    async with db.system_connection() as tx:
        rows = await fetch_rows(
            tx,
            """
            update agents
               set last_seen_at = :now,
                   status = case when agents.status in ('enrolled', 'stale') then 'active' else agents.status end,
                   last_status = coalesce(beat.status, agents.last_status),
                   agent_version = coalesce(beat.version, agents.agent_version),
                   capabilities = case when beat.capabilities is null then agents.capabilities
                                       else array(select jsonb_array_elements_text(beat.capabilities)) end
              from unnest(:agent_ids::uuid[], :hashes::bytea[], :statuses::text[], :versions::text[], :capabilities::jsonb[])
                as beat (agent_id, secret_hash, status, version, capabilities)
             where agents.id = beat.agent_id
               and agents.secret_hash = beat.secret_hash
               and agents.status <> 'revoked'
            returning agents.id, agents.secret_hash
            """,
            agent_ids=[credential.agent_id for credential, _ in beats],
            hashes=[credential.secret_hash for credential, _ in beats],
            statuses=[beat.status or None for _, beat in beats],
            versions=[beat.version or None for _, beat in beats],
            capabilities=[beat.capabilities for _, beat in beats],
            now=now,
        )
    seen: set[tuple[Any, Any]] = {(row["id"], row["secret_hash"]) for row in rows}
    return [(credential.agent_id, credential.secret_hash) in seen for credential, _ in beats]


async def mark_stale_all_tenants(tx: Tx, *, now: datetime, after_s: float) -> int:
    """Turn active agents without a heartbeat for `after_s` seconds into stale ones and return how many."""
    return await execute(
        tx,
        """
        update agents
           set status = 'stale'
         where status = 'active'
           and coalesce(last_seen_at, created_at) < :before
        """,
        before=now - timedelta(seconds=after_s),
    )
