"""The trail as NDJSON that proves itself: a header with the public keys, signed checkpoints, the events in the order of the chain, and
a signed end that covers every byte before it.

A line must be kept byte for byte: the hash of an event covers its metadata as printed here.
"""

import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

import msgspec

from probity.audit import rules, store
from probity.audit.models import AuditEvent, AuditEventId, BreakReason, Checkpoint, CheckpointKind, EndorsedKey, Link, Status, Verification
from probity.audit.sealer import endorse_keys
from probity.audit.verification import Begin, outcome_of
from probity.kernel.clock import Clock
from probity.kernel.crypto import KeyRing, Signature, verify_signature

FORMAT: Final = "probity-audit-1"
_END: Final = b"probity-audit-export-v1\x00"
_PAGE: Final = 500
_Seq = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class ExportInterrupted(Exception):
    """Retention removed events while they were being exported; the file has no end and does not verify. Export again."""


class Header(msgspec.Struct, frozen=True, kw_only=True, tag="header", tag_field="type", forbid_unknown_fields=True):
    format: str
    org_id: UUID
    exported_at: datetime
    boundary: Checkpoint | None
    keys: list[EndorsedKey]


class CheckpointLine(msgspec.Struct, frozen=True, kw_only=True, tag="checkpoint", tag_field="type", forbid_unknown_fields=True):
    checkpoint: Checkpoint


class EventLine(msgspec.Struct, frozen=True, kw_only=True, tag="event", tag_field="type", forbid_unknown_fields=True):
    seq: _Seq
    id: UUID
    org_id: UUID | None
    occurred_at: datetime
    actor: str
    action: str
    resource: str
    status: Status
    correlation_id: UUID
    metadata: msgspec.Raw
    event_hash: bytes
    prev_hash: bytes
    chain_hash: bytes


class End(msgspec.Struct, frozen=True, kw_only=True, tag="end", tag_field="type", forbid_unknown_fields=True):
    seq: _Seq
    chain_hash: bytes
    events: _Seq
    digest: bytes
    key_id: str
    signature: bytes


_decoder = msgspec.json.Decoder(Header | CheckpointLine | EventLine | End)


async def export_chain(begin: Begin, chain_id: UUID, ring: KeyRing, clock: Clock) -> AsyncIterator[bytes]:
    """Yield the lines of one chain as it stands now, a page at a time; memory does not grow with the trail.

    Raises:
        ExportInterrupted: see the class.
    """
    async with begin() as tx:
        keys = await store.list_keys(tx)
        checkpoints = await store.list_checkpoints(tx, chain_id)
        last_seq = await store.last_seq(tx, chain_id)
    boundary = next((each for each in reversed(checkpoints) if each.kind is CheckpointKind.BOUNDARY), None)
    header = Header(format=FORMAT, org_id=chain_id, exported_at=clock.now(), boundary=boundary, keys=_all_keys(ring, keys))
    digest = hashlib.sha256()
    start = boundary.seq if boundary else 0
    lines = [_line(header), *(_line(CheckpointLine(checkpoint=each)) for each in checkpoints if each is not boundary)]
    seq, chain_hash = start, boundary.chain_hash if boundary else rules.GENESIS
    while True:
        chunk = b"".join(lines)
        digest.update(chunk)
        yield chunk
        if seq >= last_seq:
            break
        async with begin() as tx:
            page = await store.list_links(tx, chain_id, after=seq, until=last_seq, limit=_PAGE)
        # What is missing for another reason is shown as it is: the verifier names it.
        if not page or page[0][0].seq != seq + 1:
            await _refuse_if_pruned(begin, chain_id, start)
        if not page:
            break
        lines = [_line(_event_line(link, event)) for link, event in page if event is not None]
        seq, chain_hash = page[-1][0].seq, page[-1][0].chain_hash
    yield _line(_end(ring, chain_id, seq, chain_hash, seq - start, digest.digest()))


def verify_export(lines: Iterable[bytes], known_keys: Mapping[str, bytes]) -> Verification:
    """Check an export without a database.

    Args:
        lines: the file's lines with their line ends.
        known_keys: public keys that are known to be ours. Without any, the file's own keys are taken: then it is only shown to be
            consistent (`key_trusted` is False).
    """
    check: rules.ChainCheck | None = None
    keys: Mapping[str, bytes] = {}
    digest = hashlib.sha256()
    is_ended = False
    for line in lines:
        item = _read(line)
        if check is None:
            if not isinstance(item, Header) or item.format != FORMAT:
                check = rules.ChainCheck(UUID(int=0), {})
                check.fail(BreakReason.EXPORT_CHANGED)
                return outcome_of(check, key_trusted=False)
            own_keys = {each.key_id: each.public_key for each in item.keys}
            keys = rules.trusted_keys(known_keys or own_keys, item.keys)
            check = rules.ChainCheck(item.org_id, keys, boundary=item.boundary)
        elif item is None or is_ended or isinstance(item, Header):
            check.fail(BreakReason.EXPORT_CHANGED, None if is_ended else check.seq + 1)
            break
        elif isinstance(item, CheckpointLine):
            check.expect(item.checkpoint)
        elif isinstance(item, EventLine):
            check.add(_link(check.org_id, item), _event(item))
        else:
            is_ended = True
            _check_end(check, item, keys, digest.digest())
        digest.update(line)
        if check.is_over:
            break
    if check is None:
        check = rules.ChainCheck(UUID(int=0), {})
        check.fail(BreakReason.EXPORT_CHANGED)
    elif not is_ended:
        check.end()
        check.fail(BreakReason.TAIL_CUT, check.seq + 1)
    return outcome_of(check, key_trusted=bool(known_keys))


def _check_end(check: rules.ChainCheck, end: End, keys: Mapping[str, bytes], digest: bytes) -> None:
    check.end()
    if end.seq > check.seq:
        check.fail(BreakReason.TAIL_CUT, check.seq + 1)
    message = _end_message(check.org_id, end.seq, end.chain_hash, end.events, end.digest)
    is_signed = verify_signature(keys, Signature(end.key_id, end.signature), message)
    if not is_signed or (end.seq, end.chain_hash, end.events, end.digest) != (check.seq, check.chain_hash, check.events, digest):
        check.fail(BreakReason.EXPORT_CHANGED)


def _read(line: bytes) -> Header | CheckpointLine | EventLine | End | None:
    """Return what a line says, or None when it is not exactly what an export writes."""
    try:
        item = _decoder.decode(line)
        return item if _line(item) == line else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _line(item: msgspec.Struct) -> bytes:
    return msgspec.json.encode(item) + b"\n"


def _event_line(link: Link, event: AuditEvent) -> EventLine:
    return EventLine(
        seq=link.seq,
        id=event.id,
        org_id=event.org_id,
        occurred_at=event.occurred_at,
        actor=event.actor,
        action=event.action,
        resource=event.resource,
        status=event.status,
        correlation_id=event.correlation_id,
        metadata=msgspec.Raw(event.metadata.encode()),
        event_hash=link.event_hash,
        prev_hash=link.prev_hash,
        chain_hash=link.chain_hash,
    )


def _link(org_id: UUID, line: EventLine) -> Link:
    return Link(
        org_id=org_id,
        seq=line.seq,
        event_id=line.id,
        event_hash=line.event_hash,
        prev_hash=line.prev_hash,
        chain_hash=line.chain_hash,
    )


def _event(line: EventLine) -> AuditEvent:
    return AuditEvent(
        id=AuditEventId(line.id),
        org_id=line.org_id,
        occurred_at=line.occurred_at,
        actor=line.actor,
        action=line.action,
        resource=line.resource,
        status=line.status,
        correlation_id=line.correlation_id,
        metadata=bytes(line.metadata).decode(),
    )


def _end(ring: KeyRing, chain_id: UUID, seq: int, chain_hash: bytes, events: int, digest: bytes) -> End:
    signature = ring.sign(_end_message(chain_id, seq, chain_hash, events, digest))
    return End(seq=seq, chain_hash=chain_hash, events=events, digest=digest, key_id=signature.key_id, signature=signature.value)


def _end_message(chain_id: UUID, seq: int, chain_hash: bytes, events: int, digest: bytes) -> bytes:
    return _END + chain_id.bytes + seq.to_bytes(8, "big") + chain_hash + events.to_bytes(8, "big") + digest


def _all_keys(ring: KeyRing, stored: list[EndorsedKey]) -> list[EndorsedKey]:
    mine = endorse_keys(ring)
    known = {key.key_id for key in mine}
    return [*mine, *(key for key in stored if key.key_id not in known)]


async def _refuse_if_pruned(begin: Begin, chain_id: UUID, start: int) -> None:
    async with begin() as tx:
        boundary = await store.find_boundary(tx, chain_id)
    if boundary is not None and boundary.seq > start:
        raise ExportInterrupted("events were removed by retention during the export; export again")
