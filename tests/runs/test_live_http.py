"""The live stream on real sockets, from one server and from two."""

import asyncio
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Request

from probity import main
from probity.config import Config
from probity.kernel.db import Database
from probity.kernel.principal import Principal
from probity.runs.live import sse
from tests import http_app
from tests.http_app import TestAuthenticator
from tests.runs.builders import a_finish, a_log, a_result
from tests.runs.sse_client import messages
from tests.runs.test_socketio import a_person

RUNS = "/api/v1/runs"


@pytest.fixture
def me(callers: TestAuthenticator, admin: Principal) -> dict[str, str]:
    return callers.headers(admin)


async def send(http: httpx.AsyncClient, me: dict[str, str], run: str, *events: Any) -> None:
    reply = await http.post(f"{RUNS}/{run}/events", json={"events": msgspec.to_builtins(list(events))}, headers=me)
    assert reply.status_code == 200, reply.text


async def test_a_watcher_sees_everything_as_it_happens(live_server: str, me: dict[str, str]) -> None:
    async with httpx.AsyncClient(base_url=live_server) as http:
        run = (await http.post(RUNS, json={}, headers=me)).json()["id"]
        stream = messages(http, f"{RUNS}/{run}/events", headers=me)
        first = await anext(stream)
        await send(http, me, run, a_result("a"), a_log("x\n"))

        then = [await asyncio.wait_for(anext(stream), 2) for _ in range(2)]
        await send(http, me, run, a_finish())
        rest = [message async for message in stream]

        assert first["type"] == "snapshot" and first["run"]["id"] == run and first["_event"] is None
        assert [(message["type"], message["_id"]) for message in then] == [("result", 2), ("log", 3)]
        assert [(message["type"], message["_id"]) for message in rest] == [("done", 4)]


async def test_headers_are_the_contracts_and_a_finished_reader_is_sent_away(live_server: str, me: dict[str, str]) -> None:
    async with httpx.AsyncClient(base_url=live_server) as http:
        run = (await http.post(RUNS, json={}, headers=me)).json()["id"]
        await send(http, me, run, a_finish())

        reply = await http.get(f"{RUNS}/{run}/events", headers=me)
        named = await http.get(f"{RUNS}/{run}/events", params={"named": "1"}, headers=me)
        done = await http.get(f"{RUNS}/{run}/events", headers=me | {"last-event-id": "2"})
        odd = await http.get(f"{RUNS}/{run}/events", headers=me | {"last-event-id": "nonsense"})

    assert reply.headers["content-type"].partition(";")[0] == "text/event-stream"
    assert (reply.headers["cache-control"], reply.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert reply.text.startswith('id: 2\ndata: {"type":"snapshot"') and "event: done\n" in named.text
    assert done.status_code == 204 and odd.text == reply.text


async def test_two_servers_share_live_events(config: Config, callers: TestAuthenticator, me: dict[str, str], live_server: str) -> None:
    with http_app.served(main.build(config, authenticators=[callers])) as other:
        async with httpx.AsyncClient(base_url=live_server) as here, httpx.AsyncClient(base_url=other) as there:
            run = (await here.post(RUNS, json={}, headers=me)).json()["id"]
            stream = messages(there, f"{RUNS}/{run}/events", headers=me, last_id=0)
            assert (await anext(stream))["type"] == "status"

            await send(here, me, run, a_result("a"))
            result = await asyncio.wait_for(anext(stream), 1.5)
            await send(there, me, run, a_result("b"))
            await send(here, me, run, a_finish())
            rest = [message async for message in stream]

    assert (result["type"], result["seq"]) == ("result", 2)
    assert [message["seq"] for message in rest] == [3, 4]


async def test_an_eventsource_may_carry_its_token_in_the_address(db: Database, live_server: str) -> None:
    ada = await a_person(db, live_server, "Acme")
    async with httpx.AsyncClient(base_url=live_server) as http:
        run = (await http.post(RUNS, json={}, headers=ada.headers)).json()["id"]
        await send(http, ada.headers, run, a_finish())

        good = await http.get(f"{RUNS}/{run}/events", params={"token": ada.cookie})
        bad = await http.get(f"{RUNS}/{run}/events", params={"token": "ey.bad.one"})
        elsewhere = await http.get(f"{RUNS}/{run}", params={"token": ada.cookie})

    assert (good.status_code, bad.status_code, elsewhere.status_code) == (200, 401, 401)
    assert bad.json()["error"]


async def test_the_credential_of_a_stream_is_looked_at_again(callers: TestAuthenticator, admin: Principal) -> None:
    headers = [(name.encode(), value.encode()) for name, value in callers.headers(admin).items()]
    scope: Any = {"type": "http", "method": "GET", "path": "/", "headers": headers, "query_string": b"", "state": {}}
    known = sse.still_allowed(Request(scope), callers, admin)
    unknown = sse.still_allowed(Request(scope | {"headers": [], "state": {}}), callers, admin)

    assert (await known(), await unknown()) == (True, False)
