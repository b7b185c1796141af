"""What every reply carries: security headers, CORS for listed origins, the caller's address behind proxies."""

from ipaddress import ip_network

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probity.kernel.http.dialect import Dialect
from probity.kernel.http.peers import limit_key, peer_of
from probity.kernel.http.settings import HttpSettings
from tests.fakes import FakeClock
from tests.http_app import TestAuthenticator, client_of
from tests.kernel.http.conftest import at, build_app

PROXY = (ip_network("10.0.0.0/8"),)


@pytest.mark.parametrize("dialect", [dialect for dialect in Dialect if dialect is not Dialect.PAGES])
@pytest.mark.parametrize("path", ["/limited", "/conflict", "/bug", "/nothing"])
async def test_every_reply_has_the_security_headers(small: httpx.AsyncClient, dialect: Dialect, path: str) -> None:
    reply = await small.get(at(dialect, path))

    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["x-frame-options"] == "DENY"
    assert reply.headers["referrer-policy"] == "strict-origin-when-cross-origin"
    assert "default-src" in reply.headers["content-security-policy"]
    assert "strict-transport-security" not in reply.headers


async def test_agnox_has_its_documented_policy(small: httpx.AsyncClient) -> None:
    reply = await small.get(at(Dialect.AGNOX, "/limited"))

    assert reply.headers["content-security-policy"] == (
        "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "font-src 'self' data:; connect-src 'self'"
    )


async def test_the_nonce_differs_from_reply_to_reply(small: httpx.AsyncClient) -> None:
    policies = {(await small.get(at(Dialect.SENTRI, "/limited"))).headers["content-security-policy"] for _ in range(3)}

    assert len(policies) == 3


async def test_https_sends_hsts(callers: TestAuthenticator, clock: FakeClock) -> None:
    settings = HttpSettings(public_url="https://probity.test")
    async with client_of(build_app(callers, clock, settings=settings)) as client:
        own = await client.get(at(Dialect.OWN, "/limited"))
        agnox = await client.get(at(Dialect.AGNOX, "/limited"))

    assert own.headers["strict-transport-security"] == "max-age=31536000"
    assert agnox.headers["strict-transport-security"] == "max-age=31536000; includeSubDomains; preload"


async def test_listed_origins_may_read_and_others_are_served_without_headers(callers: TestAuthenticator, clock: FakeClock) -> None:
    settings = HttpSettings(cors_origins=("https://ui.example",))
    async with client_of(build_app(callers, clock, settings=settings)) as client:
        listed = await client.get(at(Dialect.AGNOX, "/limited"), headers={"origin": "https://ui.example"})
        other = await client.get(at(Dialect.AGNOX, "/limited"), headers={"origin": "https://evil.example"})
        silent = await client.get(at(Dialect.BRIDGE, "/limited"), headers={"origin": "https://ui.example"})
        asked = await client.options(
            at(Dialect.AGNOX, "/items"),
            headers={
                "origin": "https://ui.example",
                "access-control-request-method": "POST",
                "access-control-request-headers": "x-api-key",
            },
        )

    assert listed.headers["access-control-allow-origin"] == "https://ui.example"
    assert listed.headers["access-control-allow-credentials"] == "true"
    assert other.status_code == 200 and "access-control-allow-origin" not in other.headers
    assert "access-control-allow-origin" not in silent.headers
    assert (asked.status_code, asked.headers["access-control-allow-headers"]) == (204, "x-api-key")
    assert asked.headers["access-control-allow-methods"] == "GET, HEAD, PUT, PATCH, POST, DELETE, OPTIONS"


def test_forwarded_headers_are_ignored_from_peers_that_are_no_trusted_proxy() -> None:
    headers = [(b"host", b"a.test"), (b"x-forwarded-for", b"1.2.3.4"), (b"x-forwarded-proto", b"https"), (b"x-forwarded-host", b"b.test")]

    assert peer_of("192.0.2.1", "http", headers, ()) == ("192.0.2.1", "http", "a.test")
    assert peer_of("192.0.2.1", "http", headers, PROXY) == ("192.0.2.1", "http", "a.test")
    assert peer_of("10.1.1.1", "http", headers, PROXY) == ("1.2.3.4", "https", "b.test")


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("6.6.6.6, 1.2.3.4", "1.2.3.4"),
        ("6.6.6.6, 1.2.3.4, 10.9.9.9", "1.2.3.4"),
        ("garbage, 1.2.3.4", "1.2.3.4"),
        ("1.2.3.4, garbage", "10.1.1.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:10.2.2.2", "::ffff:10.2.2.2"),
    ],
)
def test_the_client_is_the_last_hop_that_no_trusted_proxy_vouches_past(chain: str, client: str) -> None:
    assert peer_of("10.1.1.1", "http", [(b"x-forwarded-for", chain.encode())], PROXY).client_ip == client


@given(spoofed=st.lists(st.ip_addresses().map(str), max_size=5), real=st.ip_addresses(v=4).filter(lambda ip: ip not in PROXY[0]))
def test_no_spoofed_prefix_changes_the_client(spoofed: list[str], real: object) -> None:
    chain = ", ".join([*spoofed, str(real)])

    assert peer_of("10.1.1.1", "http", [(b"x-forwarded-for", chain.encode())], PROXY).client_ip == str(real)


def test_ipv6_callers_are_counted_by_their_network() -> None:
    assert limit_key("2001:db8:1:200::1") == limit_key("2001:db8:1:2ff::9") == "2001:db8:1:200::/56"
    assert limit_key("192.0.2.7") == "192.0.2.7"
