"""Importing JUnit XML over HTTP, as curl does it."""

import asyncio
from pathlib import Path

import httpx
import pytest

from probity.kernel.principal import Principal
from tests.http_app import TestAuthenticator

URL = "/api/v1/runs/import"

REPORT = b"""<?xml version="1.0"?><testsuites><testsuite name="pytest" tests="4">
<testcase classname="tests.a" name="test_one" time="0.25"/>
<testcase classname="tests.a" name="test_two"><failure message="assert 1 == 2">Traceback</failure></testcase>
<testcase classname="tests.a" name="test_three"><skipped message="not here"/></testcase>
<testcase classname="tests.b" name="test_four"><flakyFailure message="slow"/><system-out>out</system-out></testcase>
</testsuite></testsuites>"""
SECOND = b'<testsuite name="more"><testcase classname="c" name="five"/></testsuite>'
BOMB = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><testsuite><testcase name="&b;"/></testsuite>'


@pytest.fixture
def me(callers: TestAuthenticator, admin: Principal) -> dict[str, str]:
    return callers.headers(admin)


async def test_a_raw_body_becomes_one_finished_run(http: httpx.AsyncClient, me: dict[str, str]) -> None:
    reply = await http.post(
        URL, params={"project": "Shop", "name": "CI 7"}, content=REPORT, headers=me | {"content-type": "application/xml"}
    )

    assert reply.status_code == 201, reply.text
    run = reply.json()
    assert (run["state"], run["kind"], run["name"], run["number"]) == ("failed", "import", "CI 7", 1)
    assert run["totals"] == {"total": 4, "passed": 2, "failed": 1, "errors": 0, "skipped": 1, "flaky": 1}
    rows = (await http.get(f"/api/v1/runs/{run['id']}/results", headers=me)).json()["data"]
    assert [(row["case"], row["attempt"], row["outcome"]) for row in rows] == [
        ("tests.a::test_one", 1, "passed"),
        ("tests.a::test_two", 1, "failed"),
        ("tests.a::test_three", 1, "skipped"),
        ("tests.b::test_four", 1, "failed"),
        ("tests.b::test_four", 2, "passed"),
    ]
    assert rows[0]["duration_ms"] == 250 and rows[1]["details"] == {"details": "Traceback"}


async def test_several_files_make_one_run(http: httpx.AsyncClient, me: dict[str, str]) -> None:
    files = [("a", ("one.xml", REPORT, "text/xml")), ("b", ("two.xml", SECOND, "text/xml"))]

    reply = await http.post(URL, files=files, data={"note": "ignored"}, headers=me)

    assert reply.status_code == 201 and reply.json()["totals"]["total"] == 5


async def test_a_report_without_a_case_is_no_pass(http: httpx.AsyncClient, me: dict[str, str]) -> None:
    reply = await http.post(URL, content=b'<testsuite name="empty"/>', headers=me | {"content-type": "application/xml"})

    assert reply.status_code == 201, reply.text
    assert (reply.json()["state"], reply.json()["reason_code"], reply.json()["totals"]["total"]) == ("error", "no_results", 0)


async def test_a_repeat_with_the_same_key_gives_the_same_run(http: httpx.AsyncClient, me: dict[str, str]) -> None:
    key = me | {"Idempotency-Key": "build-7"}

    replies = await asyncio.gather(*(http.post(URL, content=REPORT, headers=key) for _ in range(4)))
    other = await http.post(URL, content=SECOND, headers=key)

    assert sorted(reply.status_code for reply in replies) == [200, 200, 200, 201]
    assert len({reply.json()["uuid"] for reply in replies}) == 1
    assert other.status_code == 409
    assert len((await http.get("/api/v1/runs", headers=me)).json()["data"]) == 1


@pytest.mark.parametrize("body", [BOMB, REPORT[:-30], b"hello", b"<html/>", b"", b"<a>" * 100, b"\xff\xfe\x00"])
async def test_what_is_not_junit_leaves_nothing_behind(http: httpx.AsyncClient, me: dict[str, str], body: bytes) -> None:
    reply = await http.post(URL, content=body, headers=me | {"Idempotency-Key": "k"})

    assert reply.status_code == 400, reply.text
    assert (await http.get("/api/v1/runs", headers=me)).json()["data"] == []
    assert (await http.post(URL, content=SECOND, headers=me | {"Idempotency-Key": "k"})).json()["number"] == 1


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=x"])
async def test_a_broken_form_is_refused(http: httpx.AsyncClient, me: dict[str, str], content_type: str) -> None:
    reply = await http.post(URL, content=b"--y\r\nnothing", headers=me | {"content-type": content_type})

    assert reply.status_code == 400


async def test_a_large_report_is_taken_in_pieces(http: httpx.AsyncClient, me: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "large.xml"
    with path.open("w") as file:
        file.write("<testsuite>")
        for number in range(3000):
            file.write(f'<testcase classname="c{number % 7}" name="n{number}"><system-out>{"x" * 800}</system-out></testcase>')
        file.write("</testsuite>")

    reply = await http.post(URL, content=path.read_bytes(), headers=me)

    assert reply.json()["totals"]["passed"] == 3000 and reply.json()["last_seq"] == 3002


async def test_a_key_with_odd_characters_is_refused(http: httpx.AsyncClient, me: dict[str, str]) -> None:
    assert (await http.post(URL, content=SECOND, headers=me | {"Idempotency-Key": "k" * 181})).status_code == 400
