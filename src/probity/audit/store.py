"""SQL of the trail, its chain and its checkpoints."""

from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString
from uuid import UUID

import asyncpg
import msgspec

from probity.audit.models import (
    INSTALLATION,
    AuditEvent,
    AuditEventId,
    AuditFilter,
    Checkpoint,
    CheckpointKind,
    EndorsedKey,
    Link,
)
from probity.kernel.db import Tx, execute, fetch_all, fetch_one, fetch_rows, fetch_value

# Serializes sealers and pruning of all servers; transaction-scoped advisory lock.
_SEALER_LOCK = 0x50524F42_41554454  # "PROBAUDT"


class Queued(msgspec.Struct, frozen=True):
    """An event whose hash waits for the sealer; `chain_id` is its organization, or the installation's nil id."""

    chain_id: UUID
    event_id: UUID
    event_hash: bytes


class Head(msgspec.Struct, frozen=True):
    """Where a chain stands, and its last checkpoint."""

    chain_id: UUID
    seq: int
    chain_hash: bytes
    checkpoint_seq: int
    checkpoint_at: datetime | None


async def insert_event(
    tx: Tx,
    *,
    event_id: UUID,
    org_id: UUID | None,
    actor: str,
    action: str,
    resource: str,
    status: str,
    correlation_id: UUID,
    metadata: dict[str, object],
) -> None:
    """Write one event. Without `org_id` it belongs to the only organization, or to the installation when there are several."""
    await execute(
        tx,
        """
        insert into audit_events (id, org_id, actor, action, resource, status, correlation_id, metadata)
        values (:id, coalesce(:org_id, (select (array_agg(id))[1] from organizations having count(*) = 1)),
                :actor, :action, :resource, :status, :correlation_id, :metadata)
        """,
        id=event_id,
        org_id=org_id,
        actor=actor,
        action=action,
        resource=resource,
        status=status,
        correlation_id=correlation_id,
        metadata=metadata,
    )


def list_statement(wanted: AuditFilter) -> LiteralString:
    """Return the statement of a listing: only the conditions that are asked for, so that each has its index. Only fixed texts are joined."""
    where: LiteralString = ""
    if wanted.actor is not None:
        where += " and actor = :actor"
    if wanted.action is not None:
        where += " and action = :action"
    if wanted.resource is not None:
        where += " and resource = :resource"
    if wanted.correlation_id is not None:
        where += " and correlation_id = :correlation_id"
    if wanted.since is not None:
        where += " and occurred_at >= :since"
    if wanted.until is not None:
        where += " and occurred_at < :until"
    return (
        "select id, org_id, occurred_at, actor, action, resource, status, correlation_id, metadata::text as metadata"
        " from audit_events where org_id = :org_id" + where + " order by occurred_at desc, id desc limit :limit"
    )


async def list_events(tx: Tx, org_id: UUID, wanted: AuditFilter) -> list[AuditEvent]:
    """Return the newest events that match, newest first."""
    return await fetch_all(tx, AuditEvent, list_statement(wanted), org_id=org_id, **msgspec.structs.asdict(wanted))


async def has_unsealed_all_tenants(tx: Tx) -> bool:
    return bool(await fetch_value(tx, "select exists (select from audit_unsealed)"))


async def try_lock_sealer_all_tenants(tx: Tx) -> bool:
    """Take the sealer's lock until the transaction ends, unless another server holds it."""
    return bool(await fetch_value(tx, "select pg_try_advisory_xact_lock(:lock)", lock=_SEALER_LOCK))


async def lock_sealer_all_tenants(tx: Tx) -> None:
    """Wait for the sealer's lock and hold it until the transaction ends."""
    await execute(tx, "select pg_advisory_xact_lock(:lock)", lock=_SEALER_LOCK)


async def take_unsealed_all_tenants(tx: Tx, limit: int) -> list[Queued]:
    """Take up to `limit` queued hashes out of the queue, in the order in which they will stand in their chains."""
    rows = await fetch_rows(
        tx,
        """
        with taken as (
            delete from audit_unsealed
             where ctid = any (array(select ctid from audit_unsealed limit :limit))
            returning org_id, event_id, event_hash, queued_at
        )
        select coalesce(org_id, :installation) as chain_id, event_id, event_hash
          from taken
         order by chain_id, queued_at, event_id
        """,
        limit=limit,
        installation=INSTALLATION,
    )
    return [Queued(row["chain_id"], row["event_id"], row["event_hash"]) for row in rows]


async def heads_all_tenants(tx: Tx, chain_ids: Sequence[UUID]) -> list[Head]:
    """Return where each of the chains stands; a chain without links (new, or removed up to its boundary) stands at its boundary or 0."""
    return await fetch_all(
        tx,
        Head,
        """
        select c.chain_id,
               coalesce(link.seq, boundary.seq, 0) as seq,
               coalesce(link.chain_hash, boundary.chain_hash, :genesis) as chain_hash,
               coalesce(checkpoint.seq, 0) as checkpoint_seq,
               checkpoint.signed_at as checkpoint_at
          from unnest(:chain_ids::uuid[]) as c (chain_id)
          left join lateral (select seq, chain_hash from audit_chain where org_id = c.chain_id order by seq desc limit 1) link on true
          left join lateral (select seq, chain_hash from audit_checkpoints
                              where org_id = c.chain_id and kind = 'boundary' order by seq desc limit 1) boundary on true
          left join lateral (select seq, signed_at from audit_checkpoints
                              where org_id = c.chain_id order by seq desc limit 1) checkpoint on true
        """,
        chain_ids=list(chain_ids),
        genesis=bytes(32),
    )


async def insert_links_all_tenants(tx: Tx, links: Sequence[Link]) -> None:
    await execute(
        tx,
        """
        insert into audit_chain (org_id, seq, event_id, event_hash, prev_hash, chain_hash)
        select * from unnest(:org_ids::uuid[], :seqs::bigint[], :event_ids::uuid[], :event_hashes::bytea[], :prev::bytea[], :chain::bytea[])
        """,
        org_ids=[link.org_id for link in links],
        seqs=[link.seq for link in links],
        event_ids=[link.event_id for link in links],
        event_hashes=[link.event_hash for link in links],
        prev=[link.prev_hash for link in links],
        chain=[link.chain_hash for link in links],
    )


async def insert_checkpoint_all_tenants(tx: Tx, checkpoint: Checkpoint) -> None:
    await execute(
        tx,
        """
        insert into audit_checkpoints (org_id, kind, seq, chain_hash, signed_at, key_id, signature)
        values (:org_id, :kind, :seq, :chain_hash, :signed_at, :key_id, :signature)
        on conflict (org_id, seq, kind) do nothing
        """,
        org_id=checkpoint.org_id,
        kind=checkpoint.kind.value,
        seq=checkpoint.seq,
        chain_hash=checkpoint.chain_hash,
        signed_at=checkpoint.signed_at,
        key_id=checkpoint.key_id,
        signature=checkpoint.signature,
    )


async def find_link(tx: Tx, chain_id: UUID, seq: int) -> Link | None:
    return await fetch_one(
        tx,
        Link,
        "select org_id, seq, event_id, event_hash, prev_hash, chain_hash from audit_chain where org_id = :chain_id and seq = :seq",
        chain_id=chain_id,
        seq=seq,
    )


async def list_links(tx: Tx, chain_id: UUID, *, after: int, until: int, limit: int) -> list[tuple[Link, AuditEvent | None]]:
    """Return the links with `after` < seq <= `until` in order, each with its event or None when the event is gone."""
    links = [
        _link(row)
        for row in await fetch_rows(
            tx,
            """
            select org_id, seq, event_id, event_hash, prev_hash, chain_hash
              from audit_chain
             where org_id = :chain_id
               and seq > :after
               and seq <= :until
             order by seq
             limit :limit
            """,
            chain_id=chain_id,
            after=after,
            until=until,
            limit=limit,
        )
    ]
    # Not a join: without statistics PostgreSQL would read all events once per page.
    rows = await fetch_rows(
        tx,
        """
        select id, org_id, occurred_at, actor, action, resource, status, correlation_id, metadata::text as metadata
          from audit_events
         where id = any(:ids::uuid[])
        """,
        ids=[link.event_id for link in links],
    )
    events = {row["id"]: _event(row) for row in rows}
    return [(link, events.get(link.event_id)) for link in links]


async def list_checkpoints(tx: Tx, chain_id: UUID) -> list[Checkpoint]:
    """Return every checkpoint of a chain, oldest first."""
    return await fetch_all(
        tx,
        Checkpoint,
        """
        select org_id, kind, seq, chain_hash, signed_at, key_id, signature
          from audit_checkpoints
         where org_id = :chain_id
         order by seq, kind
        """,
        chain_id=chain_id,
    )


async def find_boundary(tx: Tx, chain_id: UUID) -> Checkpoint | None:
    """Return the point up to which retention removed a chain."""
    return await fetch_one(
        tx,
        Checkpoint,
        """
        select org_id, kind, seq, chain_hash, signed_at, key_id, signature
          from audit_checkpoints
         where org_id = :chain_id
           and kind = :kind
         order by seq desc
         limit 1
        """,
        chain_id=chain_id,
        kind=CheckpointKind.BOUNDARY.value,
    )


async def last_seq(tx: Tx, chain_id: UUID) -> int:
    """Return the number of a chain's last link, 0 when it has none."""
    return int(await fetch_value(tx, "select coalesce(max(seq), 0) from audit_chain where org_id = :chain_id", chain_id=chain_id))


async def find_unsealed(tx: Tx, chain_id: UUID, *, older_than_s: float) -> UUID | None:
    """Return an event that is not in the chain and has no claim to be late: it is not queued, or it has been for too long."""
    # It reads the whole trail, which takes minutes when there are tens of millions of events.
    await execute(tx, "set local statement_timeout = '15min'")
    found: UUID | None = await fetch_value(
        tx,
        """
        with outside as materialized (
            select e.id, e.occurred_at
              from audit_events e
             where (e.org_id = :chain_id or (e.org_id is null and :chain_id = :installation))
               and not exists (select from audit_chain c where c.event_id = e.id)
        )
        select o.id
          from outside o
         where not exists (select from audit_unsealed u
                            where u.event_id = o.id and u.queued_at > now() - make_interval(secs => :older_than_s))
         order by o.occurred_at, o.id
         limit 1
        """,
        chain_id=chain_id,
        installation=INSTALLATION,
        older_than_s=older_than_s,
    )
    return found


async def chain_ids_all_tenants(tx: Tx) -> list[UUID]:
    """Return every chain that has a link, a checkpoint or an event."""
    rows = await fetch_rows(
        tx,
        """
        select id from organizations
        union select org_id from audit_checkpoints
        union select :installation where exists (select from audit_events where org_id is null)
        order by 1
        """,
        installation=INSTALLATION,
    )
    return [row["id"] for row in rows]


async def list_keys(tx: Tx) -> list[EndorsedKey]:
    return await fetch_all(tx, EndorsedKey, "select key_id, public_key, endorsed_by, endorsement from audit_keys order by key_id")


async def save_key_all_tenants(tx: Tx, key: EndorsedKey) -> None:
    await execute(
        tx,
        """
        insert into audit_keys (key_id, public_key, endorsed_by, endorsement)
        values (:key_id, :public_key, :endorsed_by, :endorsement)
        on conflict (key_id) do update set endorsed_by = excluded.endorsed_by, endorsement = excluded.endorsement
        where audit_keys.endorsed_by <> excluded.endorsed_by
        """,
        key_id=key.key_id,
        public_key=key.public_key,
        endorsed_by=key.endorsed_by,
        endorsement=key.endorsement,
    )


async def last_seq_before_all_tenants(tx: Tx, chain_id: UUID, before: datetime) -> int:
    """Return the last link up to which every event happened before `before`, 0 when the first one did not."""
    first_kept = await fetch_value(
        tx,
        """
        select c.seq
          from audit_chain c
          left join audit_events e on e.id = c.event_id
         where c.org_id = :chain_id
           and (e.occurred_at >= :before or e.id is null)
         order by c.seq
         limit 1
        """,
        chain_id=chain_id,
        before=before,
    )
    return await last_seq(tx, chain_id) if first_kept is None else int(first_kept) - 1


async def delete_oldest_all_tenants(tx: Tx, chain_id: UUID, *, up_to: int, limit: int) -> int:
    """Delete the oldest links up to `up_to` with their events, and return how many."""
    last = await fetch_value(
        tx,
        "select max(seq) from (select seq from audit_chain where org_id = :chain_id and seq <= :up_to order by seq limit :limit) oldest",
        chain_id=chain_id,
        up_to=up_to,
        limit=limit,
    )
    await execute(
        tx,
        "delete from audit_events where id in (select event_id from audit_chain where org_id = :chain_id and seq <= :last)",
        chain_id=chain_id,
        last=last,
    )
    return await execute(tx, "delete from audit_chain where org_id = :chain_id and seq <= :last", chain_id=chain_id, last=last)


def _link(row: asyncpg.Record) -> Link:
    return Link(
        org_id=row["org_id"],
        seq=row["seq"],
        event_id=row["event_id"],
        event_hash=row["event_hash"],
        prev_hash=row["prev_hash"],
        chain_hash=row["chain_hash"],
    )


def _event(row: asyncpg.Record) -> AuditEvent:
    # Built field by field: a verifier reads what is there, also what no enumeration allows.
    return AuditEvent(
        id=AuditEventId(row["id"]),
        org_id=row["org_id"],
        occurred_at=row["occurred_at"],
        actor=row["actor"],
        action=row["action"],
        resource=row["resource"],
        status=row["status"],
        correlation_id=row["correlation_id"],
        metadata=row["metadata"],
    )
