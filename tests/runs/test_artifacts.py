"""Files of runs: what is kept, and how it is handed out."""

import hashlib
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probity.kernel.errors import Invalid
from probity.kernel.principal import Principal
from probity.runs.artifacts import rules
from tests.http_app import TestAuthenticator


@pytest.fixture
def me(callers: TestAuthenticator, admin: Principal) -> dict[str, str]:
    return callers.headers(admin)


async def start(http: httpx.AsyncClient, me: dict[str, str]) -> str:
    return (await http.post("/api/v1/runs", json={}, headers=me)).json()["uuid"]


async def put(http: httpx.AsyncClient, me: dict[str, str], run: str, name: str, body: bytes, content_type: str = "") -> httpx.Response:
    headers = me | ({"content-type": content_type} if content_type else {})
    return await http.post(f"/api/v1/runs/{run}/artifacts", params={"name": name}, content=body, headers=headers)


async def test_a_file_comes_back_as_it_was(http: httpx.AsyncClient, me: dict[str, str]) -> None:
    run = await start(http, me)
    body = bytes(range(256)) * 5000

    kept = (await put(http, me, run, "traces/run.bin", body)).json()
    got = await http.get(kept["url"], headers=me)

    assert got.content == body and kept["sha256"] == hashlib.sha256(body).hexdigest()
    assert got.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["content-disposition"] == "attachment; filename=\"run.bin\"; filename*=UTF-8''run.bin"
    listed = (await http.get(f"/api/v1/runs/{run}/artifacts", headers=me)).json()["data"]
    assert listed == [kept]


async def test_the_same_file_again_is_the_same_artifact(http: httpx.AsyncClient, me: dict[str, str]) -> None:
    run = await start(http, me)

    first, again, other = [(await put(http, me, run, "a.txt", body)).json() for body in (b"one", b"one", b"two")]

    assert first == again and other["id"] != first["id"]
    assert (await http.get(f"/api/v1/runs/{run}", headers=me)).json()["last_seq"] == 3


@pytest.mark.parametrize(
    ("name", "content_type", "served", "kind"),
    [
        ("a.png", "", "image/png", "inline"),
        ("a.webm", "", "video/webm", "inline"),
        ("a.log", "text/plain; charset=latin-1", "text/plain; charset=utf-8", "inline"),
        ("a.html", "", "text/html; charset=utf-8", "attachment"),
        ("a.svg", "image/svg+xml", "image/svg+xml", "attachment"),
        ("a", "not a type", "application/octet-stream", "attachment"),
        ("a.pdf", "application/octet-stream", "application/pdf", "attachment"),
    ],
)
async def test_only_harmless_types_are_shown(
    http: httpx.AsyncClient, me: dict[str, str], name: str, content_type: str, served: str, kind: str
) -> None:
    kept = (await put(http, me, await start(http, me), name, b"x", content_type)).json()

    got = await http.get(kept["url"], headers=me)

    assert (got.headers["content-type"], got.headers["content-disposition"].partition(";")[0]) == (served, kind)


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a\\b", "C:x", "a\r\nX: y", "a\x00", ".", "a/ /b", "x" * 501, "a\u2028b"]
)
async def test_names_that_could_leave_their_place_are_refused(http: httpx.AsyncClient, me: dict[str, str], name: str) -> None:
    assert (await put(http, me, await start(http, me), name, b"x")).status_code == 400


@given(st.text(min_size=1, max_size=80))
def test_no_name_can_write_a_header(name: str) -> None:
    try:
        name = rules.checked_name(name)
    except Invalid:
        return
    header = rules.disposition(name, "text/plain")
    assert header.isascii() and header.isprintable() and header.count('"') == 2 and "\\" not in header


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [("bytes=2-4", 206, b"234"), ("bytes=7-", 206, b"789"), ("bytes=-3", 206, b"789"), ("bytes=0-99", 206, b"0123456789"),
     ("bytes=10-", 416, b""), ("bytes=4-2", 200, b"0123456789"), ("lines=1-2", 200, b"0123456789"), ("bytes=0-1,3-4", 200, b"0123456789")],
)  # fmt: skip
async def test_a_part_may_be_asked_for(http: httpx.AsyncClient, me: dict[str, str], asked: str, status: int, body: bytes) -> None:
    kept = (await put(http, me, await start(http, me), "a.webm", b"0123456789")).json()

    got = await http.get(kept["url"], headers=me | {"range": asked})

    assert (got.status_code, got.content) == (status, body)


async def test_an_empty_file_is_a_file(http: httpx.AsyncClient, me: dict[str, str]) -> None:
    kept = (await put(http, me, await start(http, me), "empty.txt", b"")).json()

    assert (await http.get(kept["url"], headers=me)).content == b"" and kept["size_bytes"] == 0


async def test_other_organizations_find_nothing(
    http: httpx.AsyncClient, me: dict[str, str], callers: TestAuthenticator, outsider: Principal
) -> None:
    run = await start(http, me)
    kept: dict[str, Any] = (await put(http, me, run, "a.txt", b"x")).json()
    them = callers.headers(outsider)

    assert (await http.get(kept["url"], headers=them)).status_code == 404
    assert (await put(http, them, run, "b.txt", b"x")).status_code == 404
    own = await start(http, them)
    assert (await http.get(f"/api/v1/runs/{own}/artifacts/{kept['id']}", headers=them)).status_code == 404
    assert (await http.get(f"/api/v1/runs/{run}/artifacts/nonsense", headers=me)).status_code == 404
