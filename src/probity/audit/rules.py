"""What the hashes and signatures of the trail cover, and the check of a chain. Pure: works on rows of a database and of an export.

Source: design §8. `event_hash` computes the same bytes as `probity_audit_hash` in migrations/0003_audit.sql; a property test compares
them.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from probity.audit.models import INSTALLATION, AuditEvent, Break, BreakReason, Checkpoint, CheckpointKind, EndorsedKey, Link
from probity.kernel.crypto import Signature, signing_key_id, verify_signature
from probity.kernel.principal import AgentId, UserId

GENESIS: Final = bytes(32)
CHECKPOINT_EVERY: Final = timedelta(minutes=15)
CHECKPOINT_EVENTS: Final = 10_000

_EVENT: Final = b"probity-audit-event-v1\x00"
_LINK: Final = b"probity-audit-link-v1\x00"
_CHECKPOINT: Final = b"probity-audit-checkpoint-v1\x00"
_KEY: Final = b"probity-audit-key-v1\x00"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def event_hash(event: AuditEvent) -> bytes:
    """Return SHA-256 over every field: a label, fixed-width fields, then each text with its length in front."""
    org_id = event.org_id or INSTALLATION
    parts = [_EVENT, event.id.bytes, org_id.bytes, _microseconds(event.occurred_at), event.correlation_id.bytes]
    for text in (event.actor, event.action, event.resource, event.status, event.metadata):
        encoded = text.encode()
        parts += (len(encoded).to_bytes(4, "big"), encoded)
    return hashlib.sha256(b"".join(parts)).digest()


def link_hash(org_id: UUID, seq: int, prev_hash: bytes, event_id: UUID, hash_of_event: bytes) -> bytes:
    """Return the chain hash of one link: SHA-256 over where it stands and everything before it."""
    return hashlib.sha256(_LINK + org_id.bytes + seq.to_bytes(8, "big") + prev_hash + event_id.bytes + hash_of_event).digest()


def extend(org_id: UUID, seq: int, chain_hash: bytes, events: Iterable[tuple[UUID, bytes]]) -> list[Link]:
    """Return the links that append `events` (id and hash, in order) to a chain whose last link is `seq` with `chain_hash`."""
    links: list[Link] = []
    for event_id, hash_of_event in events:
        seq += 1
        new_hash = link_hash(org_id, seq, chain_hash, event_id, hash_of_event)
        links.append(Link(org_id=org_id, seq=seq, event_id=event_id, event_hash=hash_of_event, prev_hash=chain_hash, chain_hash=new_hash))
        chain_hash = new_hash
    return links


def checkpoint_message(kind: CheckpointKind, org_id: UUID, seq: int, chain_hash: bytes, signed_at: datetime) -> bytes:
    """Return the bytes that a checkpoint's signature covers."""
    return _CHECKPOINT + kind.encode() + b"\x00" + org_id.bytes + seq.to_bytes(8, "big") + chain_hash + _microseconds(signed_at)


def key_message(key_id: str, public_key: bytes) -> bytes:
    """Return the bytes that a key's endorsement covers."""
    return _KEY + key_id.encode() + b"\x00" + public_key


def is_checkpoint_due(seq: int, now: datetime, last_seq: int, last_at: datetime | None) -> bool:
    """Say whether a chain at `seq` should get a checkpoint, given the last one."""
    return last_at is None or seq - last_seq >= CHECKPOINT_EVENTS or now - last_at >= CHECKPOINT_EVERY


def trusted_keys(known: Mapping[str, bytes], endorsed: Iterable[EndorsedKey]) -> dict[str, bytes]:
    """Return `known` and every key that one of them endorses, directly or through another."""
    trusted = dict(known)
    waiting = list(endorsed)
    while True:
        accepted = [key for key in waiting if key.key_id not in trusted and _is_endorsed(key, trusted)]
        if not accepted:
            return trusted
        trusted |= {key.key_id: key.public_key for key in accepted}


def is_signed(checkpoint: Checkpoint, keys: Mapping[str, bytes]) -> bool:
    """Say whether a checkpoint carries a good signature by one of `keys`."""
    message = checkpoint_message(checkpoint.kind, checkpoint.org_id, checkpoint.seq, checkpoint.chain_hash, checkpoint.signed_at)
    return verify_signature(keys, Signature(checkpoint.key_id, checkpoint.signature), message)


class ChainCheck:
    """Follows one chain, link by link, and remembers the first thing that is wrong.

    Args:
        keys: public keys that are trusted.
        boundary: the signed point that retention left, or None for a chain from its beginning.
        checkpoints: signed heads to hold against the chain: from the database, an export, or the file outside the database.
    """

    def __init__(
        self, org_id: UUID, keys: Mapping[str, bytes], *, boundary: Checkpoint | None = None, checkpoints: Iterable[Checkpoint] = ()
    ) -> None:
        self.org_id = org_id
        self.broken: Break | None = None
        self.events = 0
        self.checkpoints = 0
        self.seq, self.chain_hash = (boundary.seq, boundary.chain_hash) if boundary else (0, GENESIS)
        self.first_seq = self.seq + 1
        self._keys = keys
        self._ahead: dict[int, list[bytes]] = {}
        for checkpoint in (*((boundary,) if boundary else ()), *checkpoints):
            self.expect(checkpoint)

    def expect(self, checkpoint: Checkpoint) -> None:
        """Hold the chain against one more checkpoint, now or when it gets there; one from before the boundary only by its signature."""
        self.checkpoints += 1
        if checkpoint.org_id != self.org_id or not is_signed(checkpoint, self._keys):
            self.fail(BreakReason.CHECKPOINT_CHANGED, checkpoint.seq)
        elif checkpoint.seq == self.seq and checkpoint.chain_hash != self.chain_hash:
            self.fail(BreakReason.CHECKPOINT_DIFFERS, checkpoint.seq)
        elif checkpoint.seq > self.seq:
            self._ahead.setdefault(checkpoint.seq, []).append(checkpoint.chain_hash)

    def add(self, link: Link, event: AuditEvent | None) -> None:
        """Check the next link and its event (None when there is none)."""
        if self.is_over:
            return
        self._check(link, event)
        self.events += 1
        self.seq, self.chain_hash = link.seq, link.chain_hash
        if any(chain_hash != link.chain_hash for chain_hash in self._ahead.pop(link.seq, ())):
            self.fail(BreakReason.CHECKPOINT_DIFFERS, link.seq, link.event_id)

    def end(self) -> None:
        """No more links: a checkpoint that was not reached shows that the tail was cut."""
        if not self.is_over and any(seq > self.seq for seq in self._ahead):
            self.fail(BreakReason.TAIL_CUT, self.seq + 1)

    def fail(self, reason: BreakReason, seq: int | None = None, event_id: UUID | None = None) -> None:
        """Note a break; the first in the order of the chain is kept, one without a place only if there is no other."""
        if self.broken is None or (seq is not None and (self.broken.seq is None or seq < self.broken.seq)):
            self.broken = Break(reason=reason, seq=seq, event_id=event_id)

    @property
    def is_over(self) -> bool:
        """Whether the first break was passed, so that what follows tells nothing."""
        return self.broken is not None and self.broken.seq is not None and self.broken.seq <= self.seq

    def _check(self, link: Link, event: AuditEvent | None) -> None:
        expected_seq = self.seq + 1
        if link.seq > expected_seq:
            self.fail(BreakReason.LINK_MISSING, expected_seq)
        elif link.seq < expected_seq:
            self.fail(BreakReason.LINK_REORDERED, link.seq, link.event_id)
        elif self._is_changed(link):
            self.fail(BreakReason.LINK_CHANGED, link.seq, link.event_id)
        elif event is None:
            self.fail(BreakReason.EVENT_MISSING, link.seq, link.event_id)
        elif event.id != link.event_id or (event.org_id or INSTALLATION) != self.org_id or event_hash(event) != link.event_hash:
            self.fail(BreakReason.EVENT_CHANGED, link.seq, link.event_id)

    def _is_changed(self, link: Link) -> bool:
        expected = link_hash(self.org_id, link.seq, self.chain_hash, link.event_id, link.event_hash)
        return link.org_id != self.org_id or link.prev_hash != self.chain_hash or link.chain_hash != expected


def ids_of(kind: str, actors: Iterable[str]) -> list[UUID]:
    """Return the ids of the actors spelled `<kind>:<uuid>`."""
    ids = (_uuid(actor.partition(":")[2]) for actor in actors if actor.startswith(f"{kind}:"))
    return [each for each in ids if each is not None]


def actor_display(actor: str, users: Mapping[UserId, str], agents: Mapping[AgentId, str]) -> str:
    """Return what to call an actor. Source: secrets.md §6.13."""
    kind, _, rest = actor.partition(":")
    known = _uuid(rest)
    if kind == "user" and rest:
        return (users.get(UserId(known)) if known else None) or f"unknown user ({rest[:8]}…)"
    if kind == "agent" and known:
        name = agents.get(AgentId(known))
        return f"Agent {name}" if name else f"unknown agent ({rest[:8]}…)"
    if actor == "system:oidc":
        return "System (OIDC reconciler)"
    if kind == "system" and ":" in actor:
        return f"System ({rest})" if rest else "System"
    return actor


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _is_endorsed(key: EndorsedKey, trusted: Mapping[str, bytes]) -> bool:
    signature = Signature(key.endorsed_by, key.endorsement)
    return signing_key_id(key.public_key) == key.key_id and verify_signature(trusted, signature, key_message(key.key_id, key.public_key))


def _microseconds(moment: datetime) -> bytes:
    return ((moment - _EPOCH) // _MICROSECOND).to_bytes(8, "big", signed=True)
