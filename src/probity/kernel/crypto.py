"""Keys of the server: envelope encryption of stored secrets, keyed hashes, signatures.

A stored secret is sealed under a data key of its own (AES-256-GCM); the data key is wrapped by a master key. Every master key in the
ring opens, the last one seals. To rotate: append a key, restart, re-wrap (`kernel/sealed.py`), then take the old key away. Keys for
different uses are derived from a master key (HKDF-SHA256, RFC 5869), so no two uses share one.
"""

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from probity.kernel.errors import ProbityError
from probity.kernel.secret import Secret

KEY_BYTES: Final = 32
# A sealed value: format, id of the master key, nonce and wrapped data key, nonce and ciphertext with tag.
_FORMAT: Final = b"\x01"
_KEY_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12
_WRAPPED_BYTES: Final = KEY_BYTES + 16
_HEADER_BYTES: Final = 1 + _KEY_ID_BYTES + _NONCE_BYTES + _WRAPPED_BYTES
_FEWEST_DISTINCT_BYTES: Final = 8


class SealBroken(ProbityError):
    """The sealed bytes were changed, belong to another place, or were sealed under a key that is not in the ring."""

    code = "seal_broken"


class WeakKey(ValueError):
    """A master key that cannot be random: a constant, a placeholder, the wrong length."""


class Signature(msgspec.Struct, frozen=True):
    key_id: str
    value: bytes


class KeyRing:
    """The master keys, oldest first; the last one is current."""

    def __init__(self, masters: Sequence[bytes], *, refuse_weak: bool = True) -> None:
        """
        Raises:
            WeakKey: none given, one of the wrong length or, with `refuse_weak`, one that is visibly not random.
        """
        if not masters:
            raise WeakKey("at least one master key is needed")
        for master in masters:
            if len(master) != KEY_BYTES:
                raise WeakKey(f"a master key has {KEY_BYTES} bytes")
            if refuse_weak and len(set(master)) < _FEWEST_DISTINCT_BYTES:
                raise WeakKey("a master key is a development key; make one with `openssl rand -base64 32`")
        self._keys = {key.key_id: key for key in map(_MasterKey, masters)}
        self._current = self._keys[_key_id(masters[-1])]

    @classmethod
    def of(cls, masters: Sequence[Secret], *, refuse_weak: bool = True) -> "KeyRing":
        """Make a ring from the base64 texts of a configuration."""
        return cls([decode_key(master) for master in masters], refuse_weak=refuse_weak)

    @property
    def current_id(self) -> bytes:
        """Which master key seals; stored beside a sealed value so that rotation finds what is left to do."""
        return self._current.key_id

    def seal(self, plaintext: bytes, context: bytes) -> bytes:
        """Encrypt `plaintext` so that it opens only with the same `context` (say where the value lives: table, row, column)."""
        data_key = os.urandom(KEY_BYTES)
        nonce = os.urandom(_NONCE_BYTES)
        ciphertext = AESGCM(data_key).encrypt(nonce, plaintext, _FORMAT + context)
        return _FORMAT + self._current.wrap(data_key) + nonce + ciphertext

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Decrypt what `seal` made.

        Raises:
            SealBroken: see the class.
        """
        data_key = self._unwrap(sealed)
        nonce, ciphertext = sealed[_HEADER_BYTES : _HEADER_BYTES + _NONCE_BYTES], sealed[_HEADER_BYTES + _NONCE_BYTES :]
        try:
            return AESGCM(data_key).decrypt(nonce, ciphertext, _FORMAT + context)
        except (InvalidTag, ValueError) as error:
            raise SealBroken("a stored secret does not open: it was changed or moved") from error

    def rewrap(self, sealed: bytes) -> bytes:
        """Return the same value wrapped by the current master key; its data key and ciphertext stay as they are."""
        return _FORMAT + self._current.wrap(self._unwrap(sealed)) + sealed[_HEADER_BYTES:]

    def keyed_hash(self, value: bytes, purpose: str) -> bytes:
        """Return HMAC-SHA256 of a secret that is only ever compared, under the current key."""
        return self._current.keyed_hash(value, purpose)

    def keyed_hashes(self, value: bytes, purpose: str) -> list[bytes]:
        """Return the hash under every key, current first, for looking up what may have been stored before a rotation."""
        others = [key for key in self._keys.values() if key is not self._current]
        return [key.keyed_hash(value, purpose) for key in (self._current, *others)]

    def sign(self, message: bytes) -> Signature:
        """Sign with the Ed25519 key of the current master key."""
        return Signature(self._current.signing_id, self._current.signing.sign(message))

    def public_keys(self) -> dict[str, bytes]:
        """Return the raw Ed25519 public key of every master key, by its id; the current one last."""
        keys = [key for key in self._keys.values() if key is not self._current] + [self._current]
        return {key.signing_id: key.public for key in keys}

    def _unwrap(self, sealed: bytes) -> bytes:
        if len(sealed) < _HEADER_BYTES + _NONCE_BYTES + 16 or sealed[:1] != _FORMAT:
            raise SealBroken("a stored secret does not open: it is not in a known form")
        key_id = sealed[1 : 1 + _KEY_ID_BYTES]
        master = self._keys.get(key_id)
        if master is None:
            raise SealBroken("a stored secret does not open: its master key is not configured", key_id=key_id.hex())
        return master.unwrap(sealed[:_HEADER_BYTES])


class _MasterKey:
    """One master key and what is derived from it."""

    def __init__(self, master: bytes) -> None:
        self.key_id = _key_id(master)
        self._wrapping = AESGCM(_derive(master, b"probity/wrap/v1"))
        self._hashing = _derive(master, b"probity/keyed-hash/v1")
        self.signing = Ed25519PrivateKey.from_private_bytes(_derive(master, b"probity/sign/v1"))
        self.public = self.signing.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.signing_id = signing_key_id(self.public)

    def wrap(self, data_key: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return self.key_id + nonce + self._wrapping.encrypt(nonce, data_key, _FORMAT + self.key_id)

    def unwrap(self, header: bytes) -> bytes:
        start = 1 + _KEY_ID_BYTES
        nonce, wrapped = header[start : start + _NONCE_BYTES], header[start + _NONCE_BYTES :]
        try:
            return self._wrapping.decrypt(nonce, wrapped, _FORMAT + self.key_id)
        except InvalidTag as error:
            raise SealBroken("a stored secret does not open: its data key was changed") from error

    def keyed_hash(self, value: bytes, purpose: str) -> bytes:
        label = purpose.encode()
        return hmac.digest(self._hashing, len(label).to_bytes(4, "big") + label + value, "sha256")


def verify_signature(public_keys: Mapping[str, bytes], signature: Signature, message: bytes) -> bool:
    """Say whether `message` was signed by one of `public_keys` (raw Ed25519, by id)."""
    public = public_keys.get(signature.key_id)
    if public is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature.value, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def signing_key_id(public: bytes) -> str:
    """Return the id of a raw Ed25519 public key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def decode_key(text: Secret) -> bytes:
    """Read a master key from base64.

    Raises:
        WeakKey: it is not base64 of 32 bytes.
    """
    try:
        key = base64.b64decode(text.reveal(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise WeakKey(f"a master key is base64 of {KEY_BYTES} bytes (`openssl rand -base64 32`)")
    return key


def _key_id(master: bytes) -> bytes:
    return _derive(master, b"probity/key-id/v1")[:_KEY_ID_BYTES]


def _derive(master: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(master)
