import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probity.fleet import rules
from probity.fleet.errors import EnrollmentTokenConsumed, EnrollmentTokenExpired, EnrollmentTokenRevoked, InvalidPublicKey
from probity.fleet.models import EnrollmentToken, EnrollmentTokenId
from probity.kernel.clock import rfc3339_nanos
from probity.kernel.ids import new_id
from probity.kernel.principal import OrgId

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def a_token(*, uses: int = 0, max_uses: int = 1, expires_in_s: float = 60, revoked: bool = False) -> EnrollmentToken:
    return EnrollmentToken(
        id=EnrollmentTokenId(new_id()),
        org_id=OrgId(new_id()),
        name=None,
        tags=(),
        max_uses=max_uses,
        uses=uses,
        expires_at=NOW + timedelta(seconds=expires_in_s),
        revoked_at=NOW if revoked else None,
        created_by="user:1",
        created_at=NOW,
    )


def test_the_stored_hash_covers_the_text_of_the_secret() -> None:
    stored = rules.secret_hash("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")

    assert stored.hex() == "ea866a757e4c38babfa8127cbe9a409d3e1f93a00ff1488ff735fcf917afffd0"


@given(uses=st.integers(0, 3), expires_in_s=st.integers(-10, 10), revoked=st.booleans())
def test_a_token_admits_while_it_is_unspent_unexpired_and_unrevoked(uses: int, expires_in_s: int, revoked: bool) -> None:
    refusal = rules.check_token(a_token(uses=uses, max_uses=3, expires_in_s=expires_in_s, revoked=revoked), NOW)

    expected = (
        EnrollmentTokenRevoked
        if revoked
        else EnrollmentTokenConsumed
        if uses == 3
        else EnrollmentTokenExpired
        if expires_in_s <= 0
        else None
    )
    assert (None if refusal is None else type(refusal)) is expected


@pytest.mark.parametrize(
    ("text", "algorithm", "message"),
    [
        ("", None, "public_key is required"),
        ("*", None, "public_key is not valid base64: "),
        (base64.b64encode(b"x" * 31).decode(), None, "public_key must be 32 bytes, not 31"),
        (base64.b64encode(b"x" * 32).decode(), "rsa", "public_key_algorithm must be x25519"),
    ],
)
def test_a_public_key_is_32_bytes_of_x25519(text: str, algorithm: str | None, message: str) -> None:
    with pytest.raises(InvalidPublicKey) as refused:
        rules.public_key(text, algorithm)
    assert refused.value.message.startswith(message)


def test_times_have_nine_digits() -> None:
    assert rfc3339_nanos(datetime(2025, 1, 1, tzinfo=UTC)) == "2025-01-01T00:00:00.000000000Z"
    assert rfc3339_nanos(datetime(2025, 1, 1, 2, 3, 4, 56, tzinfo=timezone(timedelta(hours=2)))) == "2025-01-01T00:03:04.000056000Z"
