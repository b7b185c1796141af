"""Envelope encryption, rotation, keyed hashes, signatures, key files."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probity.kernel.crypto import KeyRing, SealBroken, Signature, WeakKey, decode_key, verify_signature
from probity.kernel.secret import Secret

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
RING = KeyRing([OLD])


@given(plaintext=st.binary(max_size=500), context=st.binary(max_size=50))
def test_what_was_sealed_opens(plaintext: bytes, context: bytes) -> None:
    assert RING.open(RING.seal(plaintext, context), context) == plaintext


@given(plaintext=st.binary(min_size=16, max_size=200))
def test_no_plaintext_shows_in_the_sealed_bytes(plaintext: bytes) -> None:
    assert plaintext not in RING.seal(plaintext, b"")


def test_the_same_value_never_looks_the_same_twice() -> None:
    assert RING.seal(b"value", b"") != RING.seal(b"value", b"")


@given(data=st.data())
def test_one_changed_byte_breaks_the_seal(data: st.DataObject) -> None:
    sealed = bytearray(RING.seal(b"value", b"here"))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))

    with pytest.raises(SealBroken):
        RING.open(bytes(sealed), b"here")


@given(length=st.integers(0, 120))
def test_a_cut_value_breaks_the_seal(length: int) -> None:
    sealed = RING.seal(b"x" * 40, b"")

    with pytest.raises(SealBroken):
        RING.open(sealed[: min(length, len(sealed) - 1)], b"")


def test_a_value_moved_to_another_place_does_not_open() -> None:
    with pytest.raises(SealBroken):
        RING.open(RING.seal(b"value", b"table:1"), b"table:2")


def test_after_a_rotation_old_values_open_and_can_be_wrapped_anew() -> None:
    sealed = RING.seal(b"value", b"here")
    both = KeyRing([OLD, NEW])

    rewrapped = both.rewrap(sealed)

    assert both.open(sealed, b"here") == b"value"
    assert KeyRing([NEW]).open(rewrapped, b"here") == b"value"
    with pytest.raises(SealBroken, match="not configured"):
        KeyRing([NEW]).open(sealed, b"here")


def test_the_order_of_the_other_keys_does_not_matter() -> None:
    third = os.urandom(32)
    sealed = KeyRing([OLD, NEW]).seal(b"value", b"")

    assert KeyRing([NEW, OLD, third]).open(sealed, b"") == b"value"


def test_a_keyed_hash_differs_by_key_purpose_and_value() -> None:
    hashes = {
        ring.keyed_hash(value, purpose)
        for ring in (RING, KeyRing([NEW]))
        for value, purpose in ((b"a", "x"), (b"b", "x"), (b"a", "y"), (b"ya", ""), (b"", "ya"))
    }

    assert len(hashes) == 10
    assert KeyRing([OLD, NEW]).keyed_hashes(b"a", "x") == [KeyRing([NEW]).keyed_hash(b"a", "x"), RING.keyed_hash(b"a", "x")]


def test_a_signature_holds_for_its_message_and_key_only() -> None:
    signature = RING.sign(b"message")
    ours, theirs = RING.public_keys(), KeyRing([NEW]).public_keys()

    assert verify_signature(ours, signature, b"message")
    assert not verify_signature(ours, signature, b"massage")
    assert not verify_signature(theirs, signature, b"message")
    assert not verify_signature({signature.key_id: next(iter(theirs.values()))}, signature, b"message")
    assert not verify_signature(ours, Signature(signature.key_id, b"short"), b"message")
    assert list(KeyRing([OLD, NEW]).public_keys()) == [*ours, *theirs]


@pytest.mark.parametrize("master", [bytes(32), b"\xff" * 32, b"ab" * 16, b"short", b""])
def test_a_key_that_is_not_random_is_refused(master: bytes) -> None:
    with pytest.raises(WeakKey):
        KeyRing([master])


def test_development_may_use_a_constant_key() -> None:
    assert KeyRing([bytes(32)], refuse_weak=False).open(KeyRing([bytes(32)], refuse_weak=False).seal(b"v", b""), b"") == b"v"


@pytest.mark.parametrize("text", ["", "abc", "AAAA", "not base64 at all, but long enough to be a key?"])
def test_a_key_that_is_not_base64_of_32_bytes_is_refused(text: str) -> None:
    with pytest.raises(WeakKey):
        decode_key(Secret(text))
