import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probity.identity.sessions import tokens
from probity.kernel.principal import OrgId, UserId

KEY = b"k" * 32
USER = UserId(UUID("11111111-1111-4111-8111-111111111111"))
ISSUED = datetime.fromtimestamp(1700000000, UTC)
EXPIRES = datetime.fromtimestamp(1700028800, UTC)
VECTOR = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJzZWNyZXRzLWJyaWRnZSIsInN1YiI6IjExMTExMTExLTExMTEtNDExMS04MTExLTExMTExMTExMTExMSIsImlhdC"
    "I6MTcwMDAwMDAwMCwiZXhwIjoxNzAwMDI4ODAwLCJlbWFpbCI6ImRldi5leGFtcGxlIiwibmFtZSI6IkRldiJ9.r7L6oa24wSIEqlhlULRFkHywm0bMj5i4tUYhhX7f4iU"
)


def bridge_jwt(*, email: str = "dev.example", name: str = "Dev") -> str:
    return tokens.bridge_jwt(KEY, user_id=USER, email=email, name=name, issued_at=ISSUED, expires_at=EXPIRES)


def forged(header: dict[str, str] | bytes, claims: dict[str, object], key: bytes = KEY) -> str:
    """A token signed with `key`, with whatever header and claims."""

    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    signed = part(header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode())
    signed += b"." + part(json.dumps(claims, separators=(",", ":")).encode())
    return (signed + b"." + part(hmac.digest(key, signed, "sha256"))).decode()


GOOD_HEADER = {"alg": "HS256", "typ": "JWT"}
GOOD_CLAIMS: dict[str, object] = {"iss": "secrets-bridge", "sub": str(USER), "iat": 1700000000, "exp": 1700028800}


def test_the_bridge_token_is_the_vector_of_the_contract() -> None:
    assert bridge_jwt() == VECTOR
    assert tokens.is_genuine(KEY, VECTOR, ISSUED)


def test_empty_email_and_name_are_left_out() -> None:
    payload = bridge_jwt(email="", name="").split(".")[1]

    assert list(json.loads(base64.urlsafe_b64decode(payload + "=="))) == ["iss", "sub", "iat", "exp"]


def test_the_sentri_token_has_the_claims_of_its_contract_in_order() -> None:
    token = tokens.sentri_jwt(
        KEY, user_id=USER, email="a@b.test", name="A", token_id=USER, workspace_id=OrgId(USER), issued_at=ISSUED, expires_at=EXPIRES
    )
    header, payload, _ = token.split(".")

    assert json.loads(base64.urlsafe_b64decode(header)) == GOOD_HEADER
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    assert list(claims) == ["sub", "email", "name", "role", "jti", "workspaceId", "iat", "exp"]
    assert (claims["role"], claims["exp"] - claims["iat"]) == ("user", 28800)
    assert tokens.is_genuine(KEY, token, ISSUED)


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (forged({"alg": "none", "typ": "JWT"}, GOOD_CLAIMS), "another algorithm"),
        (forged({"typ": "JWT", "alg": "HS256"}, GOOD_CLAIMS), "an equal header in another order"),
        (forged(b'{"alg": "HS256", "typ": "JWT"}', GOOD_CLAIMS), "an equal header with spaces"),
        (forged({"alg": "HS384", "typ": "JWT"}, GOOD_CLAIMS), "a stronger algorithm"),
        (forged(GOOD_HEADER, GOOD_CLAIMS, b"x" * 32), "another key"),
        (forged(GOOD_HEADER, GOOD_CLAIMS | {"iss": "projectachilles"}), "another issuer"),
        (forged(GOOD_HEADER, {key: value for key, value in GOOD_CLAIMS.items() if key != "iss"}), "neither issuer nor jti"),
        (forged(GOOD_HEADER, GOOD_CLAIMS | {"sub": ""}), "nobody"),
        (forged(GOOD_HEADER, GOOD_CLAIMS | {"iat": 1700000061}), "from the future"),
        (forged(GOOD_HEADER, GOOD_CLAIMS | {"exp": 1699999999}), "expired"),
        (forged(GOOD_HEADER, GOOD_CLAIMS | {"exp": "1800000000"}), "an expiry that is no number"),
        (VECTOR.rpartition(".")[0] + ".", "no signature"),
        (VECTOR[:-1] + "V", "a changed signature"),
        (VECTOR + "=", "padding"),
        (VECTOR.replace("eyJpc3MiO", "eyJpc3MiP"), "a changed payload"),
        ("", "nothing"),
        ("a.b", "two parts"),
        ("é" * 50, "not ASCII"),
        ("x" * 5000, "too long"),
    ],
)
def test_anything_else_is_refused(token: str, why: str) -> None:
    assert not tokens.is_genuine(KEY, token, ISSUED), why


def test_a_token_dies_when_its_time_is_over() -> None:
    assert tokens.is_genuine(KEY, VECTOR, EXPIRES)
    assert not tokens.is_genuine(KEY, VECTOR, EXPIRES + timedelta(seconds=1))


def test_the_cookie_is_hashed_as_the_vector_of_the_contract() -> None:
    text = tokens.encode(bytes(range(32)))

    assert text == "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    digest = tokens.cookie_hash(text)
    assert digest is not None
    assert digest.hex() == "630dcd2966c4336691125448bbb25b4ff412a49c732db2c8abc1b8581bd710dd"


@given(st.binary(min_size=32, max_size=32))
def test_every_cookie_is_found_by_its_raw_bytes(raw: bytes) -> None:
    assert tokens.cookie_hash(tokens.encode(raw)) == hashlib.sha256(raw).digest()


@given(st.text(max_size=60))
def test_nonsense_is_no_cookie(text: str) -> None:
    digest = tokens.cookie_hash(text)

    assert digest is None or len(digest) == 32


def test_only_one_spelling_of_a_cookie_is_accepted() -> None:
    # The last character carries two spare bits; "9" decodes to the same bytes as "8".
    assert tokens.cookie_hash("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9") is None
    assert tokens.cookie_hash("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=") is None
