"""Socket.IO on a real socket: with the Python client, with raw frames, and with the npm client that real dashboards use."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx
import msgspec
import pytest
import pytest_asyncio
import socketio

from probity import main
from probity.config import Config
from probity.identity.passwords import Passwords
from probity.identity.roles import BuiltInRole
from probity.identity.service import IdentityService
from probity.kernel.clock import SystemClock
from probity.kernel.db import Database
from probity.kernel.ids import hex24
from probity.kernel.principal import OrgId, system_principal
from probity.kernel.secret import Secret
from tests import http_app
from tests.node import npm_script
from tests.runs.builders import a_finish, a_log, a_result

PASSWORD = "Correct-horse7"
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAECAwQFBgcICQoLDA0ODw==",
}
RUNS = "/api/v1/runs"


class SignedIn(msgspec.Struct):
    token: str
    cookie: str
    org_id: OrgId

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


async def a_person(db: Database, address: str, name: str) -> SignedIn:
    passwords = Passwords(threads=1)
    try:
        identity = IdentityService(db, SystemClock(), passwords)
        organization = await identity.create_organization(name)
        email = f"{name.lower()}@example.test"
        await identity.create_user(system_principal(organization.id), email, Secret(PASSWORD), display_name=name, role=BuiltInRole.ADMIN)
    finally:
        passwords.close()
    async with httpx.AsyncClient(base_url=address) as http:
        reply = await http.post("/api/v1/auth/login", json={"email": email, "password": PASSWORD})
        assert reply.status_code == 200, reply.text
        return SignedIn(reply.json()["token"], reply.cookies["access_token"], organization.id)


@pytest_asyncio.fixture
async def ada(db: Database, live_server: str) -> SignedIn:
    return await a_person(db, live_server, "Acme")


class Listener:
    """A Python client that notes everything."""

    def __init__(self, **options: Any) -> None:
        self.client = socketio.AsyncClient(reconnection=False, **options)
        self.seen: list[tuple[str, Any]] = []
        self.disconnected = asyncio.Event()
        self.client.on("*", self._note)
        self.client.on("disconnect", lambda *_: self.disconnected.set())

    def _note(self, event: str, data: Any = None) -> None:
        self.seen.append((event, data))

    def named(self, event: str) -> list[Any]:
        return [data for name, data in self.seen if name == event]

    async def until(self, event: str, count: int = 1) -> list[Any]:
        async with asyncio.timeout(5):
            while len(self.named(event)) < count:
                await asyncio.sleep(0.01)
        return self.named(event)


@pytest_asyncio.fixture
async def listen() -> AsyncIterator[Any]:
    listeners: list[Listener] = []

    async def connect(address: str, auth: Any = None, **options: Any) -> Listener:
        listener = Listener()
        listeners.append(listener)
        await listener.client.connect(address, auth=auth, **options)
        return listener

    yield connect
    for listener in listeners:
        await listener.client.disconnect()


async def a_short_run(address: str, ada: SignedIn) -> str:
    async with httpx.AsyncClient(base_url=address, headers=ada.headers) as http:
        run: str = (await http.post(RUNS, json={"name": "nightly"})).json()["uuid"]
        for events in ([a_log("one\n"), a_log("two\n"), a_result("a")], [a_finish(0)]):
            reply = await http.post(f"{RUNS}/{run}/events", json={"events": msgspec.to_builtins(events)})
            assert reply.status_code == 200, reply.text
    return run


@pytest.mark.parametrize("transports", [["polling"], ["websocket"], ["polling", "websocket"]])
async def test_a_dashboard_hears_what_its_organizations_runs_do(
    live_server: str, ada: SignedIn, listen: Any, transports: list[str]
) -> None:
    listener = await listen(live_server, {"token": ada.token}, transports=transports)
    [welcome] = await listener.until("auth-success")

    run = await a_short_run(live_server, ada)
    updates = await listener.until("execution-updated", 3)

    assert welcome["message"] == "Connected to organization channel" and welcome["organizationId"] == hex24(ada.org_id)
    assert set(welcome) == {"message", "organizationId", "userId", "role"}
    assert all((update["taskId"], update["organizationId"]) == (run, hex24(ada.org_id)) for update in updates)
    assert [update["status"] for update in updates if "status" in update] == ["RUNNING", "PASSED"]
    assert "".join(piece["log"] for piece in listener.named("execution-log")) == "one\ntwo\n"
    assert listener.named("execution-results")[0]["results"][0]["testName"] == "a"
    assert all(value is not None for update in updates for value in update.values())


async def test_other_organizations_hear_nothing(live_server: str, db: Database, ada: SignedIn, listen: Any) -> None:
    eve = await a_person(db, live_server, "Globex")
    theirs = await listen(live_server, {"token": eve.token})
    await theirs.until("auth-success")
    mine = await listen(live_server, {"token": ada.token})
    await mine.until("auth-success")

    await a_short_run(live_server, ada)
    await mine.until("execution-updated", 3)

    assert [event for event, _ in theirs.seen] == ["auth-success"]


@pytest.mark.parametrize(("auth", "error"), [(None, "Authentication required"), ({"token": "ey.bad.token"}, "Invalid or expired token"),
                                             ({"token": 7}, "Authentication required"), ({"token": "pa_unknown"}, "Invalid or expired token")])  # fmt: skip
async def test_a_bad_token_is_told_so_and_hung_up(live_server: str, listen: Any, auth: Any, error: str) -> None:
    listener = await listen(live_server, auth, transports=["websocket"])

    assert await listener.until("auth-error") == [{"error": error}]
    await asyncio.wait_for(listener.disconnected.wait(), 2)


async def test_the_frames_are_the_contracts(live_server: str, ada: SignedIn) -> None:
    url = f"{live_server}/socket.io/?EIO=4&transport=websocket"
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as good, session.ws_connect(url) as bad:
        opened = json.loads((await good.receive_str())[1:])
        await good.send_str("40" + json.dumps({"token": ada.token}))
        await bad.receive_str()
        await bad.send_str("40")

        accepted = [await good.receive_str() for _ in range(2)]
        rejected = [await bad.receive_str() for _ in range(3)]

    assert {key: opened[key] for key in ("upgrades", "pingInterval", "pingTimeout", "maxPayload")} == {
        "upgrades": [],
        "pingInterval": 25000,
        "pingTimeout": 20000,
        "maxPayload": 1000000,
    }
    assert accepted[0].startswith('40{"sid":') and accepted[1].startswith('42["auth-success",{')
    assert rejected[0].startswith('40{"sid":') and rejected[1:] == ['42["auth-error",{"error":"Authentication required"}]', "41"]


@pytest.mark.parametrize(("pin", "status"), [("agnox", 101), ("sentri", 403)])
async def test_only_the_pin_of_its_contract_has_a_socket(live_server: str, pin: str, status: int) -> None:
    url = f"{live_server}/compat/{pin}/socket.io/?EIO=4&transport=websocket"

    async with aiohttp.ClientSession() as http:
        reply = await http.get(url, headers=HANDSHAKE)
        reply.close()

    assert reply.status == status


async def test_a_socket_of_another_server_hears_it_too(config: Config, live_server: str, ada: SignedIn, listen: Any) -> None:
    with http_app.served(main.build(config)) as other:
        listener = await listen(other, {"token": ada.token}, transports=["websocket"])
        await listener.until("auth-success")

        await a_short_run(live_server, ada)

        assert len(await listener.until("execution-updated", 3)) == 3
        await listener.client.disconnect()


CLIENT = """
const { io } = require("socket.io-client");
const [address, token, transports] = process.argv.slice(2);
const socket = io(address, { auth: token ? { token } : {}, transports: transports.split(","), reconnection: false });
const say = (...what) => console.log(JSON.stringify(what));
socket.onAny((event, data) => {
  say(event, data);
  if (event === "execution-updated" && data.status === "PASSED") { say("transport", socket.io.engine.transport.name); socket.close(); }
});
socket.on("disconnect", (reason) => { say("disconnect", reason); process.exit(0); });
setTimeout(() => process.exit(3), 15000);
"""


@pytest.fixture(scope="session")
def npm_client(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the npm client."""
    return npm_script(tmp_path_factory.mktemp("npm"), CLIENT, "socket.io-client@4")


@pytest.mark.registry
@pytest.mark.parametrize("transports", ["polling", "websocket", "polling,websocket"])
async def test_the_npm_client_hears_the_run_live(live_server: str, ada: SignedIn, npm_client: list[str], transports: str) -> None:
    process = await asyncio.create_subprocess_exec(*npm_client, live_server, ada.token, transports, stdout=subprocess.PIPE)
    assert process.stdout is not None
    welcome = json.loads(await asyncio.wait_for(process.stdout.readline(), 10))

    run = await a_short_run(live_server, ada)
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    said = [json.loads(line) for line in out.splitlines()]

    assert welcome[0] == "auth-success"
    assert [data["taskId"] for event, data in said if event == "execution-updated"] == [run] * 3
    assert ["disconnect", "io client disconnect"] in said


@pytest.mark.registry
async def test_the_npm_client_is_told_why_it_is_refused(live_server: str, npm_client: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(*npm_client, live_server, "", "websocket", stdout=subprocess.PIPE)

    out, _ = await asyncio.wait_for(process.communicate(), 20)

    assert [json.loads(line) for line in out.splitlines()] == [
        ["auth-error", {"error": "Authentication required"}],
        ["disconnect", "io server disconnect"],
    ]
