"""Runs over HTTP, with the whole application in process."""

from typing import Any

import httpx
import msgspec
import pytest

from probity.kernel.principal import Principal
from tests.http_app import TestAuthenticator
from tests.runs.builders import a_finish, a_log, a_result

RUNS = "/api/v1/runs"


def wire(*events: Any) -> dict[str, Any]:
    return {"events": msgspec.to_builtins(list(events))}


@pytest.fixture
def me(callers: TestAuthenticator, admin: Principal) -> dict[str, str]:
    return callers.headers(admin)


@pytest.fixture
def them(callers: TestAuthenticator, outsider: Principal) -> dict[str, str]:
    return callers.headers(outsider)


async def start(http: httpx.AsyncClient, me: dict[str, str], **fields: Any) -> dict[str, Any]:
    reply = await http.post(RUNS, json={"name": "nightly"} | fields, headers=me)
    assert reply.status_code == 201, reply.text
    return reply.json()


async def test_an_external_run_from_start_to_end(http: httpx.AsyncClient, me: dict[str, str]) -> None:
    run = await start(http, me, project="Shop")
    events = f"{RUNS}/{run['id']}/events"

    first = await http.post(events, json=wire(a_result("a"), a_result("b"), a_log("out\n"), a_log("err\n", stream="stderr")), headers=me)
    await http.post(f"{RUNS}/{run['uuid']}/events", json=wire(a_finish(0)), headers=me)

    assert first.json() == {"accepted": 4, "duplicates": 0, "last_seq": 5}
    got = (await http.get(f"{RUNS}/{run['id']}", headers=me)).json()
    assert (got["id"], got["state"], got["status"], got["totals"]["passed"]) == ("RUN-1", "passed", "completed", 2)
    assert [result["testName"] for result in got["results"]] == ["a", "b"] and got["logs"] == [
        "[2026-01-01T12:00:00.000Z] out",
        "[2026-01-01T12:00:00.000Z] err",
    ]
    log = await http.get(f"{RUNS}/{run['id']}/log", headers=me)
    assert (log.text, log.headers["content-type"], log.headers["x-content-type-options"]) == (
        "out\nerr\n",
        "text/plain; charset=utf-8",
        "nosniff",
    )
    listed = (await http.get(RUNS, params={"project": "shop", "state": "passed", "q": "night"}, headers=me)).json()
    assert [(row["id"], row["project"], row["totals"]["total"]) for row in listed["data"]] == [("RUN-1", "Shop", 2)]
    results = (await http.get(f"{RUNS}/{run['id']}/results", params={"limit": 1}, headers=me)).json()
    assert [row["case"] for row in results["data"]] == ["a"] and results["next_cursor"]
    rest = (await http.get(f"{RUNS}/{run['id']}/results", params={"cursor": results["next_cursor"]}, headers=me)).json()
    assert [row["case"] for row in rest["data"]] == ["b"] and rest["next_cursor"] is None


async def test_the_reply_of_one_run_has_the_contracts_keys(http: httpx.AsyncClient, me: dict[str, str]) -> None:
    run = await start(http, me)

    got = (await http.get(f"{RUNS}/{run['id']}", headers=me)).json()

    contract = (
        "id projectId workspaceId type status startedAt finishedAt duration error errorCategory passed failed total logs tests results"
    )
    assert set(contract.split()) <= set(got)
    assert (got["type"], got["status"]) == ("test_run", "running")


async def test_aborting_is_the_contracts(http: httpx.AsyncClient, me: dict[str, str]) -> None:
    run = await start(http, me)

    assert (await http.post(f"{RUNS}/{run['id']}/abort", headers=me)).json() == {"ok": True}

    again = await http.post(f"{RUNS}/{run['id']}/abort", headers=me)
    assert (again.status_code, again.json()["error"]) == (409, "Run is not in progress")
    got = (await http.get(f"{RUNS}/{run['id']}", headers=me)).json()
    assert (got["status"], got["error"]) == ("aborted", "Aborted by user")


async def test_foreign_and_unknown_runs_are_not_found(http: httpx.AsyncClient, me: dict[str, str], them: dict[str, str]) -> None:
    run = await start(http, me)
    body = wire(a_result())

    for name in (run["uuid"], "RUN-999", "nonsense", "%00", "..%2f"):
        for method, path in (
            ("GET", ""), ("GET", "/events"), ("GET", "/results"), ("GET", "/log"), ("GET", "/artifacts"),
            ("POST", "/abort"), ("POST", "/finish"), ("POST", "/events"),
        ):  # fmt: skip
            json = None if method == "GET" or path == "/abort" else {} if path == "/finish" else body
            reply = await http.request(method, f"{RUNS}/{name}{path}", json=json, headers=them)
            assert reply.status_code == 404, (method, name, path, reply.text)
    assert (await http.get(f"{RUNS}/{run['uuid']}", headers=me)).json()["totals"]["total"] == 0


async def test_every_wrong_field_is_named(http: httpx.AsyncClient, me: dict[str, str]) -> None:
    run = await start(http, me)
    good = msgspec.to_builtins(a_result())
    bad = good | {"outcome": "great", "duration_ms": -1, "attempt": 0, "surprise": 1}

    reply = await http.post(f"{RUNS}/{run['id']}/events", json={"events": [good, bad, {"type": "nope"}]}, headers=me)

    assert reply.status_code == 400
    text = reply.text
    for path in ("events.1.outcome", "events.1.duration_ms", "events.1.attempt", "events.1.surprise", "events.2"):
        assert path in text, text
    assert (await http.get(f"{RUNS}/{run['id']}", headers=me)).json()["last_seq"] == 1


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"command": ["true"], "kind": "external"}, "command"),
        ({"kind": "command"}, "command"),
        ({"kind": "import"}, "kind"),
        ({"agent": "x", "tags": ["a"]}, "tags"),
        ({"name": "a\x00"}, "name"),
        ({"env": {"1=": "x"}, "command": ["a"]}, "env"),
    ],
)
async def test_a_run_that_makes_no_sense_is_refused(
    http: httpx.AsyncClient, me: dict[str, str], fields: dict[str, Any], named: str
) -> None:
    reply = await http.post(RUNS, json=fields, headers=me)

    assert reply.status_code == 400 and named in reply.text


async def test_too_many_events_and_too_large_bodies_are_refused(http: httpx.AsyncClient, me: dict[str, str]) -> None:
    run = await start(http, me)
    path = f"{RUNS}/{run['id']}/events"

    many = await http.post(path, json={"events": [{"type": "log"}] * 1001}, headers=me)
    large = await http.post(path, content=b" " * (17 * 1024 * 1024), headers=me | {"content-type": "application/json"})

    assert (many.status_code, large.status_code) == (400, 413)


async def test_a_dispatched_command_waits_in_the_queue_and_abort_cancels_it(http: httpx.AsyncClient, me: dict[str, str]) -> None:
    run = await start(http, me, command=["pytest", "-q"], env={"A": "b"}, timeout_s=60)

    assert (run["state"], run["kind"], run["command"]) == ("queued", "command", ["pytest", "-q"]) and run["job_id"]
    await http.post(f"{RUNS}/{run['id']}/abort", headers=me)
    assert (await http.get(f"{RUNS}/{run['id']}", headers=me)).json()["state"] == "aborted"


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 201}, {"state": "x"}, {"cursor": "x"}, {"since": "x"}, {"q": "a\x00"}])
async def test_wrong_parameters_of_the_list_are_refused(http: httpx.AsyncClient, me: dict[str, str], params: dict[str, Any]) -> None:
    assert (await http.get(RUNS, params=params, headers=me)).status_code == 400


async def test_without_a_credential_nothing_is_said(http: httpx.AsyncClient) -> None:
    for method, path in (("GET", ""), ("POST", ""), ("GET", "/RUN-1"), ("GET", "/RUN-1/events"), ("POST", "/RUN-1/events")):
        assert (await http.request(method, RUNS + path, json={} if method == "POST" else None)).status_code == 401
