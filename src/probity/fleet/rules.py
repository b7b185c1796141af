"""Decisions of the fleet: pure, no clock, no database."""

import base64
import binascii
import hashlib
from datetime import datetime
from typing import Final

from probity.fleet.errors import (
    EnrollmentRefused,
    EnrollmentTokenConsumed,
    EnrollmentTokenExpired,
    EnrollmentTokenRevoked,
    InvalidAgent,
    InvalidPublicKey,
)
from probity.fleet.models import EnrollmentToken, PublicKey

KEY_ALGORITHM: Final = "x25519"
KEY_BYTES: Final = 32
MAX_NAME: Final = 200


def secret_hash(text: str) -> bytes:
    """Return what is stored of a credential or token: SHA-256 over its text, not over the bytes it encodes.

    Source: secrets.md 2.4.
    """
    return hashlib.sha256(text.encode()).digest()


def check_token(token: EnrollmentToken, now: datetime) -> EnrollmentRefused | None:
    """Return why `token` admits nobody at `now`, or None. The order of the checks is the contract's."""
    if token.revoked_at is not None:
        return EnrollmentTokenRevoked()
    if token.uses >= token.max_uses:
        return EnrollmentTokenConsumed()
    if token.expires_at <= now:
        return EnrollmentTokenExpired()
    return None


def agent_name(text: str) -> str:
    """Return a name fit to be stored.

    Raises:
        InvalidAgent: it is blank, too long, or not printable.
    """
    name = text.strip()
    if not name:
        raise InvalidAgent("name is required")
    if len(name) > MAX_NAME or not name.isprintable():
        raise InvalidAgent(f"name must be at most {MAX_NAME} printable characters")
    return name


def public_key(text: str, algorithm: str | None) -> PublicKey:
    """Read a key in standard base64.

    Raises:
        InvalidPublicKey: it is missing, not base64, of another length or algorithm. The texts are the contract's where it has one.
    """
    if not text:
        raise InvalidPublicKey("public_key is required")
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidPublicKey(f"public_key is not valid base64: {error}") from error
    if (algorithm or KEY_ALGORITHM) != KEY_ALGORITHM:
        raise InvalidPublicKey(f"public_key_algorithm must be {KEY_ALGORITHM}")
    if len(raw) != KEY_BYTES:
        raise InvalidPublicKey(f"public_key must be {KEY_BYTES} bytes, not {len(raw)}")
    return PublicKey(raw, KEY_ALGORITHM)


def key_digest(key: PublicKey) -> str:
    """Return the short name of a key that the audit trail uses: 8 bytes of its SHA-256, base64url without padding."""
    return base64.urlsafe_b64encode(hashlib.sha256(key.raw).digest()[:8]).rstrip(b"=").decode()
