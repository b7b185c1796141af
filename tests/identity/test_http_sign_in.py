"""Sign-in over HTTP: at the root, and pinned to each of the two contracts that share the path."""

import re
from dataclasses import replace
from http.cookies import SimpleCookie

import httpx
import pytest

from probity import main
from probity.config import Config
from probity.identity.sessions import tokens
from probity.identity.sessions.tokens import cookie_hash
from probity.kernel.db import Database, execute, fetch_value
from tests import http_app
from tests.fakes import FakeClock
from tests.identity.conftest import Household, Person
from tests.identity.test_tokens import VECTOR, forged

LOGIN, LOGOUT, ME = "/api/v1/auth/login", "/api/v1/auth/logout", "/api/v1/auth/me"
BRIDGE, SENTRI = "/compat/bridge", "/compat/sentri"
OURS = {"origin": "http://probity.test"}


async def log_in(web: httpx.AsyncClient, person: Person, base: str = "", **headers: str) -> httpx.Response:
    reply = await web.post(base + LOGIN, json={"email": person.email, "password": person.password}, headers=headers)
    # Each test says itself which cookies it sends.
    web.cookies.clear()
    return reply


def set_cookies(reply: httpx.Response) -> dict[str, str]:
    """Return name → whole line of every cookie that a reply sets."""
    lines = reply.headers.get_list("set-cookie")
    return {line.partition("=")[0]: line for line in lines}


def value(line: str) -> str:
    return next(iter(SimpleCookie(line).values())).value


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_a_script_gets_the_union_and_both_kinds_of_cookies(web: httpx.AsyncClient, ada: Person) -> None:
    reply = await log_in(web, ada)

    assert reply.status_code == 200
    body = reply.json()
    assert set(body) == {"token", "expires_at", "user"}
    assert body["expires_at"] == "2026-01-01T08:00:00Z"
    assert body["user"] == {
        "id": str(ada.user.id),
        "email": ada.email,
        "display_name": "Ada",
        "name": "Ada",
        "role": "user",
        "avatar": None,
        "hasPassword": True,
        "workspaceId": str(ada.organization.id),
        "workspaceName": "Initech",
        "workspaceRole": "admin",
    }
    assert set(set_cookies(reply)) == {"sb_session", "access_token", "token_exp"}


async def test_a_browser_gets_the_bridge_cookie(web: httpx.AsyncClient, ada: Person) -> None:
    reply = await log_in(web, ada, **OURS)

    [(name, line)] = set_cookies(reply).items()
    assert name == "sb_session"
    assert cookie_hash(value(line)) is not None
    assert line.partition("; ")[2] == "Path=/; Max-Age=28800; Expires=Thu, 01 Jan 2026 08:00:00 GMT; HttpOnly; SameSite=Strict"


@pytest.mark.parametrize("signal", [{"cookie": "_csrf=abc"}, {"x-csrf-token": "abc"}])
async def test_sentris_front_end_gets_sentris_cookies(web: httpx.AsyncClient, ada: Person, signal: dict[str, str]) -> None:
    reply = await log_in(web, ada, **OURS, **signal)

    cookies = set_cookies(reply)
    assert set(cookies) == {"access_token", "token_exp"} | ({"_csrf"} if "x-csrf-token" in signal else set())
    assert cookies["access_token"].endswith("; Path=/; HttpOnly; Max-Age=28800; SameSite=Strict")
    assert cookies["token_exp"] == "token_exp=1767254400; Path=/; Max-Age=28800; SameSite=Strict"


async def test_pinned_bridge_answers_as_secrets_bridge(web: httpx.AsyncClient, ada: Person) -> None:
    reply = await log_in(web, ada, BRIDGE)

    assert set(reply.json()) == {"token", "expires_at", "user"}
    assert reply.json()["user"] == {"id": str(ada.user.id), "email": ada.email, "display_name": "Ada"}
    assert set(set_cookies(reply)) == {"sb_session"}


async def test_pinned_sentri_answers_as_sentri_without_a_token_in_the_body(web: httpx.AsyncClient, ada: Person) -> None:
    reply = await log_in(web, ada, SENTRI)

    assert set(reply.json()) == {"user"}
    assert "display_name" not in reply.json()["user"]
    cookies = set_cookies(reply)
    assert set(cookies) == {"access_token", "token_exp", "_csrf"}
    assert re.fullmatch(r"_csrf=[\w-]{43}; Path=/; SameSite=Strict", cookies["_csrf"])
    assert value(cookies["access_token"]) not in reply.text


async def test_cookies_are_secure_where_the_browser_came_by_https(web: httpx.AsyncClient, ada: Person) -> None:
    reply = await web.post("https://probity.test" + LOGIN, json={"email": ada.email, "password": ada.password})

    assert all("; Secure" in line for line in set_cookies(reply).values())


@pytest.mark.parametrize(
    ("base", "body", "status", "error"),
    [
        ("", {"email": "nobody@x.test", "password": "x"}, 401, "Invalid email or password."),
        ("", {"email": "", "password": "x"}, 400, "Invalid email or password."),
        ("", {"email": "nobody@x.test"}, 400, "Invalid email or password."),
        ("", {}, 400, "Invalid email or password."),
        ("", {"email": 1, "password": None}, 400, "invalid JSON body"),
        ("", b"{", 400, "invalid JSON body"),
        ("", b"", 400, "invalid JSON body"),
        (BRIDGE, {"email": "nobody@x.test", "password": "x"}, 401, "invalid credentials"),
        (BRIDGE, {"email": "", "password": "x"}, 401, "invalid credentials"),
        (BRIDGE, {}, 401, "invalid credentials"),
        (BRIDGE, {"email": 1}, 400, "invalid JSON body"),
        (BRIDGE, b"[", 400, "invalid JSON body"),
        (SENTRI, {"email": "nobody@x.test", "password": "x"}, 401, "Invalid email or password."),
        (SENTRI, {"email": "nobody@x.test", "password": ""}, 400, "Invalid email or password."),
        (SENTRI, {"email": ["x"], "password": {}}, 400, "Invalid email or password."),
    ],
)
async def test_a_refusal_reads_as_the_contract_says(
    web: httpx.AsyncClient, base: str, body: dict[str, object] | bytes, status: int, error: str
) -> None:
    content = {"content": body} if isinstance(body, bytes) else {"json": body}

    reply = await web.post(base + LOGIN, **content, headers={"content-type": "application/json"})

    assert (reply.status_code, reply.json()["error"]) == (status, error)
    assert set(set_cookies(reply)) == ({"_csrf"} if base == SENTRI else set())


async def test_every_wrong_field_is_named(web: httpx.AsyncClient) -> None:
    reply = await web.post(LOGIN, json={"email": 1, "password": []})

    assert [field["path"] for field in reply.json()["fields"]] == ["email", "password"]


async def test_a_locked_account_reads_like_an_unknown_one(web: httpx.AsyncClient, ada: Person) -> None:
    ada.password = "wrong"
    for _ in range(5):
        await log_in(web, ada)
    ada.password = "Correct-horse7"

    locked, unknown = await log_in(web, ada), await web.post(LOGIN, json={"email": "nobody@x.test", "password": "x"})

    assert (locked.status_code, locked.content) == (unknown.status_code, unknown.content)
    volatile = {"x-request-id", "date", "content-security-policy"}
    assert {k: v for k, v in locked.headers.items() if k not in volatile} == {k: v for k, v in unknown.headers.items() if k not in volatile}


@pytest.mark.parametrize("base", ["", BRIDGE])
async def test_the_shared_route_takes_thirty_a_minute(web: httpx.AsyncClient, base: str) -> None:
    body = {"email": "nobody@x.test", "password": ""}

    statuses = [(await web.post(base + LOGIN, json=body)).status_code for _ in range(30)]
    refused = await web.post(base + LOGIN, json=body)

    assert 429 not in statuses
    assert (refused.status_code, refused.json()) == (429, {"error": "rate limit exceeded"})
    assert int(refused.headers["retry-after"]) >= 1


async def test_pinned_sentri_takes_ten_in_fifteen_minutes(web: httpx.AsyncClient, clock: FakeClock) -> None:
    body = {"email": "nobody@x.test", "password": ""}

    statuses = [(await web.post(SENTRI + LOGIN, json=body)).status_code for _ in range(10)]
    refused = await web.post(SENTRI + LOGIN, json=body)

    assert set(statuses) == {400}
    assert (refused.status_code, refused.json()) == (429, {"error": "Too many sign-in attempts. Try again in 15 minutes."})
    assert refused.headers["retry-after"] == "900"
    clock.advance(901)
    assert (await web.post(SENTRI + LOGIN, json=body)).status_code == 400


async def test_me_is_flat_and_hands_out_the_csrf_cookie_once(web: httpx.AsyncClient, ada: Person) -> None:
    token = (await log_in(web, ada)).json()["token"]

    first = await web.get(ME, headers=bearer(token))
    second = await web.get(ME, headers=bearer(token) | {"cookie": "_csrf=mine"})

    assert first.json() == {
        "id": str(ada.user.id),
        "name": "Ada",
        "email": ada.email,
        "role": "user",
        "avatar": None,
        "hasPassword": True,
        "workspaceId": str(ada.organization.id),
        "workspaceName": "Initech",
        "workspaceRole": "admin",
        "createdAt": "2026-01-01T00:00:00.000Z",
    }
    assert set(set_cookies(first)) == {"_csrf"}
    assert "set-cookie" not in second.headers


async def test_pinned_sentri_hands_out_the_csrf_cookie_with_any_reply(web: httpx.AsyncClient) -> None:
    for path in (ME, "/nothing", "/api/v1/nothing"):
        web.cookies.clear()
        assert set(set_cookies(await web.get(SENTRI + path))) == {"_csrf"}
        assert "set-cookie" not in (await web.get(SENTRI + path, headers={"cookie": "a=b; _csrf=mine"})).headers
        assert "set-cookie" not in (await web.get(path)).headers


@pytest.mark.parametrize("base", ["", SENTRI])
async def test_me_without_a_credential_is_401(web: httpx.AsyncClient, base: str) -> None:
    reply = await web.get(base + ME)

    assert (reply.status_code, reply.json()) == (401, {"error": "Authentication required."})


async def test_me_is_not_part_of_pinned_bridge(web: httpx.AsyncClient, ada: Person) -> None:
    token = (await log_in(web, ada)).json()["token"]

    assert (await web.get(BRIDGE + ME)).status_code == 401
    assert (await web.get(BRIDGE + ME, headers=bearer(token))).status_code == 404


async def test_each_credential_signs_in(web: httpx.AsyncClient, ada: Person) -> None:
    reply = await log_in(web, ada)
    cookies = {name: value(line) for name, line in set_cookies(reply).items()}

    for headers in (
        {"cookie": f"sb_session={cookies['sb_session']}"},
        {"cookie": f"access_token={cookies['access_token']}"},
        # Our own pages' cookie opens the same store.
        {"cookie": f"probity_session={cookies['sb_session']}"},
        {"cookie": f"__Host-probity_session={cookies['sb_session']}"},
        bearer(reply.json()["token"]),
        bearer(cookies["access_token"]),
    ):
        assert (await web.get(ME, headers=headers)).status_code == 200, headers


async def test_a_bad_cookie_falls_through_to_a_good_token_and_a_good_cookie_wins(
    web: httpx.AsyncClient, household: Household, ada: Person
) -> None:
    bob = await household.person("Bob")
    ada_cookie = value(set_cookies(await log_in(web, ada))["sb_session"])
    bob_token = (await log_in(web, bob)).json()["token"]

    both = await web.get(ME, headers={"cookie": f"sb_session={ada_cookie}"} | bearer(bob_token))
    stale = await web.get(ME, headers={"cookie": f"sb_session={ada_cookie[:-2]}AA; access_token=x"} | bearer(bob_token))

    assert both.json()["name"] == "Ada"
    assert stale.json()["name"] == "Bob"


@pytest.mark.parametrize("header", ["bearer {}", "BEARER {}", "Bearer  {}", "Token {}", "{}"])
async def test_the_bearer_prefix_is_exact(web: httpx.AsyncClient, ada: Person, header: str) -> None:
    token = (await log_in(web, ada)).json()["token"]

    assert (await web.get(ME, headers={"authorization": header.format(token)})).status_code == 401


async def test_foreign_tokens_open_nothing(web: httpx.AsyncClient, ada: Person) -> None:
    claims = {"iss": "secrets-bridge", "sub": str(ada.user.id), "iat": 1767225600, "exp": 1767254400}
    key = b"signing-key-of-the-tests-at-least-32-bytes"

    for token in (
        VECTOR,
        forged({"alg": "none", "typ": "JWT"}, claims, key),
        forged({"alg": "HS256", "typ": "JWT"}, claims | {"iss": "other"}, key),
        # Signed with our very key, but no session stands behind it.
        forged({"alg": "HS256", "typ": "JWT"}, claims, key),
    ):
        assert (await web.get(ME, headers=bearer(token))).status_code == 401


async def test_a_token_in_the_address_is_taken_by_pinned_sentri_only(web: httpx.AsyncClient, ada: Person) -> None:
    token = value(set_cookies(await log_in(web, ada))["access_token"])

    assert (await web.get(f"{SENTRI}{ME}?token={token}")).status_code == 200
    assert (await web.get(f"{ME}?token={token}")).status_code == 401
    assert (await web.get(f"/compat/bridge/api/v1/nothing?token={token}")).status_code == 401


@pytest.mark.parametrize("presented", ["sb_session", "access_token", "token"])
async def test_signing_out_ends_every_credential_at_once(web: httpx.AsyncClient, ada: Person, presented: str) -> None:
    reply = await log_in(web, ada)
    cookies = {name: value(line) for name, line in set_cookies(reply).items()}
    token = reply.json()["token"]
    headers = bearer(token) if presented == "token" else {"cookie": f"{presented}={cookies[presented]}"}

    out = await web.post(LOGOUT, headers=headers)

    if presented == "sb_session":
        assert (out.status_code, out.content) == (204, b"")
    else:
        assert (out.status_code, out.json()) == (200, {"message": "Signed out successfully."})
    for dead in (bearer(token), {"cookie": f"sb_session={cookies['sb_session']}"}, {"cookie": f"access_token={cookies['access_token']}"}):
        assert (await web.get(ME, headers=dead)).status_code == 401


async def test_signing_out_at_the_root_without_a_credential_is_204(web: httpx.AsyncClient) -> None:
    assert (await web.post(LOGOUT)).status_code == 204
    assert (await web.post(LOGOUT, headers={"cookie": "sb_session=stale"})).status_code == 204


async def test_pinned_bridge_clears_its_cookie_with_204(web: httpx.AsyncClient, ada: Person) -> None:
    cookie = value(set_cookies(await log_in(web, ada, BRIDGE))["sb_session"])

    out = await web.post(BRIDGE + LOGOUT, headers={"cookie": f"sb_session={cookie}"})

    assert out.status_code == 204
    assert set_cookies(out) == {
        "sb_session": "sb_session=; Path=/; Max-Age=-1; Expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly; SameSite=Strict"
    }


async def test_pinned_sentri_wants_a_sign_in_to_sign_out(web: httpx.AsyncClient, ada: Person) -> None:
    cookie = value(set_cookies(await log_in(web, ada, SENTRI))["access_token"])

    anonymous = await web.post(SENTRI + LOGOUT)
    out = await web.post(SENTRI + LOGOUT, headers={"cookie": f"access_token={cookie}"})

    assert (anonymous.status_code, anonymous.json()) == (401, {"error": "Authentication required."})
    assert (out.status_code, out.json()) == (200, {"message": "Signed out successfully."})
    assert out.headers.get_list("set-cookie")[:2] == [
        "access_token=; Path=/; HttpOnly; Max-Age=0; SameSite=Strict",
        "token_exp=; Path=/; Max-Age=0; SameSite=Strict",
    ]


async def test_a_session_cannot_be_fixed_by_an_attacker(web: httpx.AsyncClient, ada: Person) -> None:
    planted = tokens.encode(b"attackers-choice-of-32-raw-bytes")

    reply = await log_in(web, ada, cookie=f"sb_session={planted}; probity_session={planted}")

    assert value(set_cookies(reply)["sb_session"]) != planted
    assert (await web.get(ME, headers={"cookie": f"sb_session={planted}"})).status_code == 401


async def test_every_sign_in_has_a_session_of_its_own(web: httpx.AsyncClient, ada: Person) -> None:
    first = value(set_cookies(await log_in(web, ada))["sb_session"])

    second = value(set_cookies(await log_in(web, ada, cookie=f"sb_session={first}"))["sb_session"])

    assert first != second


async def test_another_sites_form_cannot_sign_a_visitor_in(web: httpx.AsyncClient, ada: Person) -> None:
    body = f'{{"email":"{ada.email}","password":"{ada.password}"}}'
    headers = {"content-type": "text/plain", "origin": "https://evil.test", "sec-fetch-site": "cross-site"}

    reply = await web.post(LOGIN, content=body, headers=headers)

    assert reply.status_code == 403
    assert "set-cookie" not in reply.headers


async def test_a_write_with_a_cookie_needs_our_origin_or_the_token(web: httpx.AsyncClient, ada: Person) -> None:
    cookie = f"sb_session={value(set_cookies(await log_in(web, ada))['sb_session'])}; _csrf=abc"
    body = {"name": "ci", "scope": "read"}

    async def write(**headers: str) -> int:
        return (await web.post("/api/api-keys", json=body, headers={"cookie": cookie} | headers)).status_code

    assert await write() == 403
    assert await write(origin="https://evil.test") == 403
    assert await write(**{"x-csrf-token": "abd"}) == 403
    assert await write(**OURS) == 201
    assert await write(**{"x-csrf-token": "abc"}) == 201


async def test_a_write_with_a_token_alone_needs_no_csrf_proof(web: httpx.AsyncClient, ada: Person) -> None:
    token = (await log_in(web, ada)).json()["token"]

    assert (await web.post("/api/api-keys", json={"name": "ci", "scope": "read"}, headers=bearer(token))).status_code == 201


async def test_a_person_of_two_organizations_sees_both_and_acts_in_the_owned_one(
    db: Database, web: httpx.AsyncClient, household: Household, ada: Person
) -> None:
    other = await household.person("Eve", at="Elsewhere")
    async with db.system() as tx:
        await execute(
            tx,
            "insert into memberships (org_id, user_id, is_owner, created_at) values (:org_id, :user_id, true, now())",
            org_id=other.organization.id,
            user_id=ada.user.id,
        )

    user = (await log_in(web, ada)).json()["user"]

    assert user["workspaceName"] == "Elsewhere"
    assert user["workspaceRole"] == "viewer"
    assert {workspace["name"]: (workspace["role"], workspace["isOwner"]) for workspace in user["workspaces"]} == {
        "Initech": ("admin", False),
        "Elsewhere": ("viewer", True),
    }


async def test_a_session_survives_a_restart_of_the_server(
    db: Database, web: httpx.AsyncClient, ada: Person, config: Config, clock: FakeClock
) -> None:
    token = (await log_in(web, ada)).json()["token"]

    async with http_app.client_of(main.build(config, clock=clock)) as restarted:
        assert (await restarted.get(ME, headers=bearer(token))).status_code == 200
    async with db.system() as tx:
        assert await fetch_value(tx, "select count(*) from sessions") == 1


async def test_sentris_cookies_travel_to_a_front_end_on_another_site(db: Database, config: Config, clock: FakeClock, ada: Person) -> None:
    listed = replace(config, http=replace(config.http, cors_origins=("https://qa.example.test",)))

    async with http_app.client_of(main.build(listed, clock=clock)) as web:
        reply = await log_in(web, ada, SENTRI, origin="https://qa.example.test")
        out = await web.post(SENTRI + LOGOUT, headers={"cookie": f"access_token={value(set_cookies(reply)['access_token'])}; _csrf=mine"})
        at_root = await log_in(web, ada)

    cookies = set_cookies(reply)
    assert all(line.endswith("; SameSite=None; Secure") for line in cookies.values())
    assert reply.headers["x-csrf-token"] == value(cookies["_csrf"])
    assert reply.headers["access-control-expose-headers"] == "X-CSRF-Token"
    assert out.headers["x-csrf-token"] == "mine"
    assert all(line.endswith("; Max-Age=0; SameSite=None; Secure") for line in set_cookies(out).values())
    assert "SameSite=None" not in "".join(set_cookies(at_root).values())
    assert "x-csrf-token" not in at_root.headers
