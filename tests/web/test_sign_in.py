"""Signing in and out by the pages' own form."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probity.identity.passwords import Passwords
from probity.identity.service import IdentityService
from probity.kernel.db import Database
from probity.kernel.secret import Secret
from probity.web.sign_in import cookies
from probity.web.sign_in.rules import HOME, is_own_form, safe_next
from tests.fakes import FakeClock

EMAIL, PASSWORD = "ada@example.org", "A long and lovely password 1"
OWN = {"origin": "http://probity.test", "sec-fetch-site": "same-origin"}


@pytest.fixture
async def somebody(db: Database, clock: FakeClock) -> None:
    passwords = Passwords()
    try:
        await IdentityService(db, clock, passwords).bootstrap(EMAIL, Secret(PASSWORD))
    finally:
        passwords.close()


async def submit(http: httpx.AsyncClient, headers: dict[str, str] = OWN, **fields: str) -> httpx.Response:
    return await http.post("/sign-in", data={"email": EMAIL, "password": PASSWORD, "next": ""} | fields, headers=headers)


@pytest.mark.usefixtures("somebody")
async def test_the_right_password_opens_a_session_and_leads_where_the_reader_wanted(http: httpx.AsyncClient) -> None:
    reply = await submit(http, next="/runs?state=failed")

    assert (reply.status_code, reply.headers["location"]) == (303, "/runs?state=failed")
    cookie = reply.headers["set-cookie"]
    assert cookie.startswith("probity_session=")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert (await http.get("/runs")).status_code == 200
    assert (await http.get("/sign-in")).status_code == 303


@pytest.mark.usefixtures("somebody")
async def test_a_wrong_password_says_so_keeps_the_address_and_opens_nothing(http: httpx.AsyncClient) -> None:
    reply = await submit(http, password="wrong")

    assert reply.status_code == 401
    assert "The email or the password is wrong" in reply.text
    assert f'value="{EMAIL}"' in reply.text
    assert "wrong</" not in reply.text.replace("is wrong</", "")
    assert "set-cookie" not in reply.headers


async def test_each_missing_field_is_named_there_and_in_the_summary(http: httpx.AsyncClient) -> None:
    reply = await submit(http, email="", password="")

    assert reply.status_code == 400
    assert 'href="#email"' in reply.text
    assert 'href="#password"' in reply.text
    assert reply.text.count("Enter your password.") == 2


@pytest.mark.parametrize(
    "headers", [{}, {"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site", "origin": "http://probity.test"}]
)
@pytest.mark.usefixtures("somebody")
async def test_a_form_of_another_site_signs_nobody_in_or_out(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    foreign_in = await submit(http, headers)
    await submit(http)
    foreign_out = await http.post("/sign-out", headers=headers)

    assert (foreign_in.status_code, foreign_out.status_code) == (403, 403)
    assert "set-cookie" not in foreign_in.headers
    assert (await http.get("/runs")).status_code == 200


@pytest.mark.usefixtures("somebody")
async def test_signing_out_ends_the_session_in_the_server(http: httpx.AsyncClient) -> None:
    await submit(http)
    session = http.cookies["probity_session"]

    reply = await http.post("/sign-out", headers=OWN)

    assert (reply.status_code, reply.headers["location"]) == (303, "/sign-in")
    assert (await http.get("/runs", headers={"cookie": f"probity_session={session}"})).status_code == 303


@pytest.mark.parametrize(
    "text",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil",
        "/a\nb",
        "javascript:alert(1)",
        "/sign-in?next=/sign-in",
        "/%0d",
        "",
        "/" * 3000,
    ],
)
def test_a_sign_in_never_leads_to_another_site(text: str) -> None:
    assert safe_next(text) in (HOME, "/%0d")


@given(st.text())
def test_whatever_is_asked_for_the_way_on_is_a_path_of_this_site(text: str) -> None:
    path = safe_next(text)

    assert path.startswith("/")
    assert not path.startswith(("//", "/\\"))
    assert path.isprintable()


def test_a_path_of_this_site_is_kept() -> None:
    assert safe_next("/runs/RUN-3?tab=log") == "/runs/RUN-3?tab=log"


def test_only_our_own_pages_send_our_forms() -> None:
    own = "http://probity.test"

    assert is_own_form(fetch_site="same-origin", origin=None, own_origin=own)
    assert is_own_form(fetch_site=None, origin="http://PROBITY.test", own_origin=own)
    assert not is_own_form(fetch_site="same-site", origin=own, own_origin=own)
    assert not is_own_form(fetch_site=None, origin=None, own_origin=own)


def test_on_https_the_cookie_is_bound_to_this_host() -> None:
    assert cookies.closed(https=True) == "__Host-probity_session=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax"
    assert cookies.closed(https=False) == "probity_session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
