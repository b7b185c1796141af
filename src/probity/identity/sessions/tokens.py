"""What clients hold: opaque session tokens and the signed tokens of two contracts. Pure: bytes in, bytes out.

A signed token carries no authorization. It is found by the hash of its text in `session_credentials`, so revoking the session revokes it.
"""

import base64
import binascii
import hashlib
import hmac
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

import msgspec

from probity.kernel.principal import OrgId, UserId

TOKEN_BYTES: Final = 32
# Compared byte for byte: `alg` is not a choice of whoever sends the token. Sources: secrets.md §2.2, webtest.md §2.2.
HEADER: Final = b"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
BRIDGE_ISSUER: Final = "secrets-bridge"
_CLOCK_SKEW_S: Final = 60
# Far above what we issue; a longer text is not worth hashing.
_LONGEST: Final = 4096

_Seconds = Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class CredentialForm(StrEnum):
    COOKIE = "cookie"
    BRIDGE_JWT = "bridge_jwt"
    SENTRI_JWT = "sentri_jwt"


class _BridgeClaims(msgspec.Struct, frozen=True, omit_defaults=True):
    iss: str
    sub: str
    iat: _Seconds
    exp: _Seconds
    email: str = ""
    name: str = ""


class _SentriClaims(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    sub: str
    email: str
    name: str
    role: str
    jti: str
    workspace_id: str | msgspec.UnsetType = msgspec.UNSET
    iat: _Seconds = msgspec.field(default=-1)
    exp: _Seconds = msgspec.field(default=-1)


class _AnyClaims(msgspec.Struct, frozen=True):
    """The claims that decide whether a signed token is one of ours and still good."""

    sub: str
    exp: _Seconds
    iat: _Seconds = 0
    iss: str | None = None
    jti: str | None = None


_claims = msgspec.json.Decoder(_AnyClaims)


def encode(raw: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def cookie_hash(text: str) -> bytes | None:
    """Return what an opaque session token is stored as: SHA-256 over its 32 raw bytes. None when the text is not such a token.

    Source: secrets.md §2.3.
    """
    if len(text) != 43 or not text.isascii():
        return None
    try:
        raw = base64.b64decode(text + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    # Two spellings of the same bytes are one too many: the last character has spare bits.
    return hashlib.sha256(raw).digest() if len(raw) == TOKEN_BYTES and encode(raw) == text else None


def jwt_hash(token: str) -> bytes:
    """Return what a signed token is found by."""
    return hashlib.sha256(token.encode()).digest()


def bridge_jwt(key: bytes, *, user_id: UserId, email: str, name: str, issued_at: datetime, expires_at: datetime) -> str:
    """Return the token of secrets.md §2.2; claims in the order of the contract, empty `email` and `name` omitted."""
    claims = _BridgeClaims(BRIDGE_ISSUER, str(user_id), _seconds(issued_at), _seconds(expires_at), email, name)
    return _sign(key, msgspec.json.encode(claims))


def sentri_jwt(
    key: bytes,
    *,
    user_id: UserId,
    email: str,
    name: str,
    token_id: UUID,
    workspace_id: OrgId | None,
    issued_at: datetime,
    expires_at: datetime,
) -> str:
    """Return the token of webtest.md §2.2; `iat` and `exp` come last."""
    claims = _SentriClaims(
        sub=str(user_id),
        email=email,
        name=name,
        role="user",
        jti=str(token_id),
        workspace_id=msgspec.UNSET if workspace_id is None else str(workspace_id),
        iat=_seconds(issued_at),
        exp=_seconds(expires_at),
    )
    return _sign(key, msgspec.json.encode(claims))


def is_genuine(key: bytes, token: str, now: datetime) -> bool:
    """Return whether `token` was signed by us for either contract and is neither expired nor from the future.

    Whether it is still wanted is for the database to say.
    """
    if len(token) > _LONGEST or not token.isascii():
        return False
    signed, _, signature = token.encode().rpartition(b".")
    header, _, payload = signed.partition(b".")
    if not hmac.compare_digest(header, HEADER) or not hmac.compare_digest(_signature(key, signed), signature):
        return False
    try:
        claims = _claims.decode(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error, ValueError):
        return False
    # Sentri's tokens have a `jti` and no issuer; Secrets Bridge's have its issuer. Anything else signed with this key is not a sign-in.
    is_ours = claims.iss == BRIDGE_ISSUER if claims.iss is not None else claims.jti is not None
    seconds = _seconds(now)
    return is_ours and bool(claims.sub) and seconds <= claims.exp and claims.iat <= seconds + _CLOCK_SKEW_S


def _sign(key: bytes, payload: bytes) -> str:
    signed = HEADER + b"." + base64.urlsafe_b64encode(payload).rstrip(b"=")
    return (signed + b"." + _signature(key, signed)).decode()


def _signature(key: bytes, signed: bytes) -> bytes:
    return base64.urlsafe_b64encode(hmac.digest(key, signed, "sha256")).rstrip(b"=")


def _seconds(moment: datetime) -> int:
    return int(moment.astimezone(UTC).timestamp())
