"""The chain as a pure thing: whatever is changed, the first changed place is named."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probity.audit import rules
from probity.audit.models import AuditEvent, AuditEventId, BreakReason, Checkpoint, CheckpointKind, Link, Status
from probity.audit.sealer import endorse_keys, sign_checkpoint
from probity.kernel.crypto import KeyRing
from probity.kernel.principal import AgentId, UserId
from tests.fakes import FakeClock

ORG, OTHER = UUID(int=1), UUID(int=2)
RING, THEIR_RING = KeyRing([bytes(range(32))]), KeyRing([bytes(range(9, 41))])
KEYS = RING.public_keys()
CLOCK = FakeClock()

texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=30)
events = st.builds(
    AuditEvent,
    id=st.uuids().map(AuditEventId),
    org_id=st.just(ORG),
    occurred_at=st.integers(-(10**15), 4 * 10**15).map(lambda each: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=each)),
    actor=texts,
    action=texts,
    resource=texts,
    status=st.sampled_from(Status),
    correlation_id=st.uuids(),
    metadata=st.sampled_from(["{}", '{"a": 1}', '{"a": "ä"}']),
)
trails = st.lists(events, min_size=1, max_size=12, unique_by=lambda event: event.id)


def a_chain(trail: list[AuditEvent]) -> list[Link]:
    return rules.extend(ORG, 0, rules.GENESIS, [(event.id, rules.event_hash(event)) for event in trail])


def a_head(link: Link, ring: KeyRing = RING) -> Checkpoint:
    return sign_checkpoint(ring, CLOCK, CheckpointKind.HEAD, link)


def check(
    pairs: list[tuple[Link, AuditEvent | None]], checkpoints: list[Checkpoint], boundary: Checkpoint | None = None
) -> rules.ChainCheck:
    found = rules.ChainCheck(ORG, KEYS, boundary=boundary, checkpoints=checkpoints)
    for link, event in pairs:
        found.add(link, event)
    found.end()
    return found


@given(trail=trails)
def test_an_untouched_chain_verifies(trail: list[AuditEvent]) -> None:
    chain = a_chain(trail)

    found = check(list(zip(chain, trail, strict=True)), [a_head(link) for link in chain])

    assert (found.broken, found.events, found.chain_hash) == (None, len(trail), chain[-1].chain_hash)


@given(trail=trails, data=st.data())
def test_a_changed_field_of_any_event_is_named(trail: list[AuditEvent], data: st.DataObject) -> None:
    chain = a_chain(trail)
    at = data.draw(st.integers(0, len(trail) - 1))
    field = data.draw(st.sampled_from(AuditEvent.__struct_fields__))
    changes = {
        "id": UUID(int=trail[at].id.int ^ 1),
        "org_id": OTHER,
        "occurred_at": trail[at].occurred_at + timedelta(microseconds=1),
        "status": Status.DENIED if trail[at].status is not Status.DENIED else Status.SUCCESS,
        "correlation_id": UUID(int=trail[at].correlation_id.int ^ 1),
    }
    value = changes.get(field) or getattr(trail[at], field) + "x"
    touched = [*trail[:at], msgspec.structs.replace(trail[at], **{field: value}), *trail[at + 1 :]]

    broken = check(list(zip(chain, touched, strict=True)), []).broken

    assert broken is not None
    assert (broken.reason, broken.seq, broken.event_id) == (BreakReason.EVENT_CHANGED, at + 1, trail[at].id)


@given(trail=trails, data=st.data())
def test_a_changed_field_of_any_link_is_named(trail: list[AuditEvent], data: st.DataObject) -> None:
    chain = a_chain(trail)
    at = data.draw(st.integers(0, len(trail) - 1))
    field = data.draw(st.sampled_from(["event_id", "event_hash", "prev_hash", "chain_hash", "org_id"]))
    value = getattr(chain[at], field)
    changed = UUID(int=value.int ^ 1) if isinstance(value, UUID) else bytes([value[0] ^ 1]) + value[1:]
    touched = [*chain[:at], msgspec.structs.replace(chain[at], **{field: changed}), *chain[at + 1 :]]

    broken = check(list(zip(touched, trail, strict=True)), []).broken

    assert broken is not None
    assert (broken.reason, broken.seq) == (BreakReason.LINK_CHANGED, at + 1)


@given(trail=trails.filter(lambda trail: len(trail) > 2), data=st.data())
def test_a_missing_link_two_exchanged_links_and_a_missing_event_are_named(trail: list[AuditEvent], data: st.DataObject) -> None:
    pairs = list(zip(a_chain(trail), trail, strict=True))
    at = data.draw(st.integers(0, len(trail) - 2))

    removed = check([*pairs[:at], *pairs[at + 1 :]], []).broken
    exchanged = check([*pairs[:at], pairs[at + 1], pairs[at], *pairs[at + 2 :]], []).broken
    gone = check([(link, None if index == at else event) for index, (link, event) in enumerate(pairs)], []).broken

    assert removed is not None and (removed.reason, removed.seq) == (BreakReason.LINK_MISSING, at + 1)
    assert exchanged is not None and exchanged.seq == at + 1
    assert gone is not None and (gone.reason, gone.event_id) == (BreakReason.EVENT_MISSING, trail[at].id)


@given(trail=trails, data=st.data())
def test_a_cut_tail_shows_against_a_signed_head(trail: list[AuditEvent], data: st.DataObject) -> None:
    chain = a_chain(trail)
    kept = data.draw(st.integers(0, len(trail) - 1))

    broken = check(list(zip(chain[:kept], trail[:kept], strict=True)), [a_head(chain[-1])]).broken

    assert broken is not None
    assert (broken.reason, broken.seq) == (BreakReason.TAIL_CUT, kept + 1)


@given(trail=trails, data=st.data())
def test_a_chain_computed_anew_differs_from_its_signed_heads(trail: list[AuditEvent], data: st.DataObject) -> None:
    head = a_head(a_chain(trail)[-1])
    at = data.draw(st.integers(0, len(trail) - 1))
    forged = [*trail[:at], msgspec.structs.replace(trail[at], actor="somebody else" + trail[at].actor), *trail[at + 1 :]]

    broken = check(list(zip(a_chain(forged), forged, strict=True)), [head]).broken

    assert broken is not None
    assert (broken.reason, broken.seq) == (BreakReason.CHECKPOINT_DIFFERS, len(trail))


@given(trail=trails, data=st.data())
def test_a_checkpoint_that_was_edited_or_signed_by_another_is_named(trail: list[AuditEvent], data: st.DataObject) -> None:
    chain = a_chain(trail)
    head = a_head(chain[-1])
    changes = {
        "org_id": OTHER,
        "kind": CheckpointKind.BOUNDARY,
        "seq": head.seq + 1,
        "chain_hash": bytes(32),
        "signed_at": head.signed_at + timedelta(microseconds=1),
        "key_id": "0" * 16,
        "signature": bytes(64),
    }
    field = data.draw(st.sampled_from(sorted(changes)))
    edited = msgspec.structs.replace(head, **{field: changes[field]})

    for checkpoint in (edited, a_head(chain[-1], THEIR_RING)):
        broken = check(list(zip(chain, trail, strict=True)), [checkpoint]).broken
        assert broken is not None
        assert (broken.reason, broken.seq) == (BreakReason.CHECKPOINT_CHANGED, checkpoint.seq)


@given(trail=trails, data=st.data())
def test_the_first_of_several_breaks_is_named(trail: list[AuditEvent], data: st.DataObject) -> None:
    chain = a_chain(trail)
    places = sorted(data.draw(st.sets(st.integers(0, len(trail) - 1), min_size=1)))
    pairs = [(link, None if index in places else event) for index, (link, event) in enumerate(zip(chain, trail, strict=True))]
    bad_head = msgspec.structs.replace(a_head(chain[-1]), signature=bytes(64))

    broken = check(pairs, [bad_head]).broken

    assert broken is not None
    assert broken.seq == places[0] + 1


@given(trail=trails, data=st.data())
def test_what_retention_left_verifies_from_its_boundary(trail: list[AuditEvent], data: st.DataObject) -> None:
    pairs = list(zip(a_chain(trail), trail, strict=True))
    kept = data.draw(st.integers(1, len(trail)))
    boundary = sign_checkpoint(RING, CLOCK, CheckpointKind.BOUNDARY, pairs[kept - 1][0])
    forged = msgspec.structs.replace(boundary, chain_hash=bytes(32))

    found = check(list(pairs[kept:]), [a_head(pairs[0][0]), a_head(pairs[-1][0])], boundary)

    assert (found.broken, found.first_seq, found.seq) == (None, kept + 1, len(trail))
    assert check(list(pairs[kept:]), [], forged).broken is not None


def test_a_key_that_a_trusted_key_endorses_is_trusted() -> None:
    old, middle, new = (KeyRing([bytes(range(start, start + 32))]) for start in (0, 50, 100))
    both, next_both = KeyRing([bytes(range(32)), bytes(range(50, 82))]), KeyRing([bytes(range(50, 82)), bytes(range(100, 132))])
    endorsed = [*endorse_keys(both), *endorse_keys(next_both), *endorse_keys(THEIR_RING)]

    trusted = rules.trusted_keys(new.public_keys(), endorsed)

    assert set(trusted) == {*old.public_keys(), *middle.public_keys(), *new.public_keys()}


@pytest.mark.parametrize(
    ("actor", "shown"),
    [
        (f"user:{UUID(int=7)}", "ada@example.com"),
        (f"user:{UUID(int=8)}", "unknown user (00000000…)"),
        (f"agent:{UUID(int=7)}", "Agent builder"),
        (f"agent:{UUID(int=8)}", "unknown agent (00000000…)"),
        ("agent:enroll", "agent:enroll"),
        ("system:oidc", "System (OIDC reconciler)"),
        ("system:", "System"),
        ("system:bootstrap", "System (bootstrap)"),
        ("worker", "worker"),
        ("anonymous", "anonymous"),
        (f"session:{UUID(int=7)}", f"session:{UUID(int=7)}"),
    ],
)
def test_an_actor_is_shown_by_name(actor: str, shown: str) -> None:
    users, agents = {UserId(UUID(int=7)): "ada@example.com"}, {AgentId(UUID(int=7)): "builder"}

    assert rules.actor_display(actor, users, agents) == shown
