"""Recording (every state change calls `record` in its own transaction), reading, proving and exporting the trail."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, Protocol
from uuid import UUID, uuid4

import msgspec

from probity.audit import rules, store
from probity.audit.errors import ChainBroken, UnsafeMetadata
from probity.audit.export import export_chain, verify_export
from probity.audit.heads import HeadsFile, HeadsFileChanged
from probity.audit.models import (
    INSTALLATION,
    Action,
    AuditEvent,
    AuditEventId,
    AuditFilter,
    Break,
    BreakReason,
    Checkpoint,
    Status,
    Verification,
)
from probity.audit.retention import prune_chain_all_tenants
from probity.audit.sealer import Sealer
from probity.audit.verification import Begin, check_chain
from probity.kernel.clock import Clock
from probity.kernel.crypto import KeyRing
from probity.kernel.db import Database, Tx
from probity.kernel.ids import new_id
from probity.kernel.principal import AgentId, OrgId, Principal, UserId, system_principal
from probity.kernel.sealed import Rotation, rotate_all_tenants

_METADATA_MAX_BYTES: Final = 16 * 1024
_RESOURCE_MAX: Final = 500


class ActorNames(Protocol):
    """Who stands behind an id in the trail; implemented by the domains that know users and agents."""

    async def user_names(self, principal: Principal, ids: Iterable[UserId]) -> Mapping[UserId, str]:
        """Return the e-mail address of each user that still exists."""
        ...

    async def agent_names(self, principal: Principal, ids: Iterable[AgentId]) -> Mapping[AgentId, str]:
        """Return the name of each agent that still exists."""
        ...


class ShownEvent(msgspec.Struct, frozen=True):
    """An event and what to call its actor."""

    event: AuditEvent
    actor_display: str


async def record(
    tx: Tx,
    principal: Principal,
    action: Action,
    resource: str,
    *,
    org_id: OrgId | None = None,
    status: Status = Status.SUCCESS,
    correlation_id: UUID | None = None,
    metadata: Mapping[str, object] | None = None,
) -> AuditEventId:
    """Write one event in the transaction of the action; if it cannot be written, the action fails with it.

    Args:
        resource: `<kind>:<id>`.
        org_id: whose trail; the principal's active organization when not given. An event without either (a failed sign-in of
            nobody we know) belongs to the only organization, or to the installation when there are several, and needs a transaction
            of the system role.
        correlation_id: what ties the events of one request chain together; a random one when not given.
        metadata: facts, JSON-encodable, at most 16 KiB. Never a secret value: a `Secret` does not encode, so the action fails.

    Raises:
        UnsafeMetadata: the metadata is too large or holds something that is not plain data.
    """
    event_id = AuditEventId(new_id())
    await store.insert_event(
        tx,
        event_id=event_id,
        org_id=org_id or principal.active_org,
        actor=principal.actor,
        action=Action(action).value,
        resource=_storable(resource)[:_RESOURCE_MAX],
        status=Status(status).value,
        correlation_id=correlation_id or uuid4(),
        metadata=_plain(metadata or {}),
    )
    return event_id


class AuditService:
    """Reads, proves and exports trails.

    Args:
        heads: the signed heads outside the database.
        sealer: seals before anything is proved or exported.
    """

    def __init__(self, db: Database, clock: Clock, ring: KeyRing, *, sealer: Sealer, heads: HeadsFile, names: ActorNames) -> None:
        self._db = db
        self._clock = clock
        self._ring = ring
        self._sealer = sealer
        self._heads = heads
        self._names = names
        # A verification reads a whole trail; one at a time is enough for a server.
        self._verifying = asyncio.Lock()

    async def list_events(self, principal: Principal, wanted: AuditFilter) -> list[ShownEvent]:
        """Return the newest events of the caller's organization that match, newest first."""
        principal.require("audit.read")
        async with self._db.transaction(principal) as tx:
            events = await store.list_events(tx, principal.org_id, wanted)
        actors = {event.actor for event in events}
        users = await self._names.user_names(principal, [UserId(each) for each in rules.ids_of("user", actors)])
        agents = await self._names.agent_names(principal, [AgentId(each) for each in rules.ids_of("agent", actors)])
        shown = {actor: rules.actor_display(actor, users, agents) for actor in actors}
        return [ShownEvent(event, shown[event.actor]) for event in events]

    async def verify(self, principal: Principal) -> Verification:
        """Seal what is queued, then check the trail of the caller's organization."""
        principal.require("audit.read")
        async with self._verifying:
            await self._sealer.seal()
            return await self._check(partial(self._db.transaction, principal), principal.org_id)

    async def verify_all_tenants(self) -> list[Verification]:
        """Seal what is queued, then check every trail of the database, the installation's own included."""
        async with self._verifying:
            await self._sealer.seal()
            async with self._db.system() as tx:
                chain_ids = await store.chain_ids_all_tenants(tx)
            return [await self._check(self._db.system, chain_id) for chain_id in chain_ids]

    async def export(self, principal: Principal) -> AsyncIterator[bytes]:
        """Return the trail of the caller's organization as NDJSON that proves itself, a page at a time."""
        principal.require("audit.read")
        async with self._db.transaction(principal) as tx:
            await record(tx, principal, Action.AUDIT_EXPORT, f"organization:{principal.org_id}")
        await self._sealer.seal()
        return export_chain(partial(self._db.transaction, principal), principal.org_id, self._ring, self._clock)

    async def export_all_tenants(self, org_id: OrgId | None) -> AsyncIterator[bytes]:
        """Return the trail of an organization, or with None the installation's own."""
        async with self._db.system() as tx:
            await record(tx, system_principal(), Action.AUDIT_EXPORT, f"organization:{org_id or INSTALLATION}", org_id=org_id)
        await self._sealer.seal()
        return export_chain(self._db.system, org_id or INSTALLATION, self._ring, self._clock)

    async def prune_all_tenants(self, org_id: OrgId, before: datetime) -> Checkpoint | None:
        """Remove what happened before `before` from an organization's trail and return the signed boundary it leaves.

        Raises:
            ChainBroken: the trail does not verify; removing its beginning would hide that.
        """
        async with self._verifying:
            await self._sealer.seal()
            found = await self._check(self._db.system, org_id)
            if found.broken is not None:
                raise ChainBroken(found.broken)
            boundary = await prune_chain_all_tenants(self._db, self._clock, self._ring, org_id, before)
        if boundary is not None and boundary.seq >= found.first_seq:
            async with self._db.system() as tx:
                principal = system_principal(org_id)
                await record(tx, principal, Action.AUDIT_PRUNE, f"organization:{org_id}", metadata={"up_to_seq": boundary.seq})
        return boundary

    async def rotate_master_key_all_tenants(self) -> Rotation:
        """Wrap every stored secret by the current master key; see `kernel.sealed.rotate_all_tenants`.

        Also has the current key endorse the older ones, so that what they signed in a trail can be checked without them.
        """
        rotation = await rotate_all_tenants(self._db, self._ring)
        async with self._db.system() as tx:
            metadata = {"rewrapped": rotation.rewrapped, "left": rotation.left}
            key = f"master_key:{self._ring.current_id.hex()}"
            await record(tx, system_principal(), Action.MASTER_KEY_ROTATE, key, metadata=metadata)
        await self._sealer.seal()
        return rotation

    async def _check(self, begin: Begin, chain_id: UUID) -> Verification:
        try:
            heads = await asyncio.to_thread(self._heads.read)
        except HeadsFileChanged:
            outcome = await check_chain(begin, chain_id, self._ring.public_keys(), [])
            if outcome.broken is not None:
                return outcome
            return msgspec.structs.replace(
                outcome, verified=False, broken=Break(reason=BreakReason.HEADS_FILE_CHANGED, seq=None, event_id=None)
            )
        return await check_chain(begin, chain_id, self._ring.public_keys(), heads)


def verify_file(path: Path, known_keys: Mapping[str, bytes]) -> Verification:
    """Check an export offline; see `export.verify_export`. Memory does not grow with the file.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return verify_export(file, known_keys)


def _plain(metadata: Mapping[str, object]) -> dict[str, object]:
    """Return the metadata as JSON types, without the one character that PostgreSQL cannot store."""
    try:
        encoded = msgspec.json.encode(metadata)
    except (TypeError, ValueError) as error:
        raise UnsafeMetadata("audit metadata must be plain data") from error
    if len(encoded) > _METADATA_MAX_BYTES:
        raise UnsafeMetadata("audit metadata is too large", size_bytes=len(encoded), limit_bytes=_METADATA_MAX_BYTES)
    plain: dict[str, object] = msgspec.json.decode(encoded)
    return {_storable(key): _without_nul(value) for key, value in plain.items()} if b"\\u0000" in encoded else plain


def _without_nul(value: object) -> object:
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    if isinstance(value, dict):
        return {_storable(key): _without_nul(item) for key, item in value.items()}
    return value


def _storable(text: str) -> str:
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")
