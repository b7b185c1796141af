"""Cookie writes: which proof passes, at the root and under the pins that document a rule of their own."""

import httpx
import pytest

from probity.kernel.http.csrf import session_cookie_name
from probity.kernel.http.dialect import Dialect
from tests.kernel.http.conftest import at

BODY = {"name": "a", "size": 5}
OURS = {"origin": "http://probity.test"}
THEIRS = {"origin": "https://evil.example"}


def cookies(*pairs: str) -> dict[str, str]:
    return {"cookie": "; ".join(pairs)}


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, True),
        (THEIRS, True),
        (cookies("theme=dark"), True),
        (cookies("sb_session=x"), False),
        (cookies("sb_session=x") | OURS, True),
        (cookies("sb_session=x") | THEIRS, False),
        (cookies("access_token=x", "_csrf=t"), False),
        (cookies("access_token=x", "_csrf=t") | {"x-csrf-token": "t"}, True),
        (cookies("access_token=x", "_csrf=t") | {"x-csrf-token": "u"}, False),
        (cookies("access_token=x", "_csrf=") | {"x-csrf-token": ""}, False),
        (cookies("__Host-probity_session=x"), False),
        (cookies("__Secure-authjs.session-token=x") | THEIRS, False),
    ],
)
@pytest.mark.parametrize("dialect", [Dialect.BRIDGE, Dialect.OWN, Dialect.AGNOX])
async def test_at_the_root(small: httpx.AsyncClient, dialect: Dialect, headers: dict[str, str], passes: bool) -> None:
    reply = await small.post(at(dialect, "/own-items"), json=BODY, headers=headers)

    assert reply.status_code == (201 if passes else 403)


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, True),
        (cookies("sb_session=x"), True),
        (cookies("access_token=x") | OURS, False),
        (cookies("access_token=x", '_csrf="t"') | {"x-csrf-token": "t"}, True),
    ],
)
async def test_pinned_sentri_wants_the_token(small: httpx.AsyncClient, headers: dict[str, str], passes: bool) -> None:
    reply = await small.post(at(Dialect.SENTRI, "/own-items", pinned=True), json=BODY, headers=headers)

    assert reply.status_code == (201 if passes else 403)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, None),
        (OURS, None),
        (cookies("theme=dark") | OURS, None),
        (THEIRS, "Cross-site request rejected."),
        ({"origin": "null"}, "Invalid Origin header."),
        (cookies("theme=dark"), "Origin header is required for authenticated writes."),
    ],
)
async def test_pinned_suparbase_wants_the_origin(small: httpx.AsyncClient, headers: dict[str, str], message: str | None) -> None:
    reply = await small.post(at(Dialect.SUPARBASE, "/own-items", pinned=True), json=BODY, headers=headers)

    if message is None:
        assert reply.status_code == 201
    else:
        assert (reply.status_code, reply.json()) == (403, {"category": "forbidden", "message": message})


async def test_reading_needs_no_proof(small: httpx.AsyncClient) -> None:
    assert (await small.get(at(Dialect.BRIDGE, "/limited"), headers=cookies("sb_session=x") | THEIRS)).status_code == 200


def test_the_session_cookie_is_bound_to_its_host_on_https() -> None:
    assert (session_cookie_name(https=False), session_cookie_name(https=True)) == ("probity_session", "__Host-probity_session")
