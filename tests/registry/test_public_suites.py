"""Suites that nobody here wrote: source distributions of public packages, with their own tests, run as a user would run them."""

import asyncio
import json
import subprocess
import sys
import tarfile
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.deployment import Deployment, deployment
from tests.node import npm_script
from tests.runs.sse_client import messages

pytestmark = [pytest.mark.registry, pytest.mark.timeout(400)]

# name of the distribution, what its tests need beside pytest
SUITES = [("itsdangerous", ["freezegun"]), ("markupsafe", [])]

CLIENT = """
const { io } = require("socket.io-client");
const [address, token, transports] = process.argv.slice(2);
const socket = io(address, { auth: { token }, transports: transports.split(",") });
const say = (what, more) => console.log(JSON.stringify({ what, more, at: Date.now() / 1000 }));
socket.on("auth-success", () => say("ready"));
socket.on("execution-results", (data) => say("result", data.taskId));
socket.on("execution-updated", (data) => { if (data.status === "PASSED") { say("done", data.taskId); process.exit(0); } });
setTimeout(() => process.exit(3), 120000);
"""


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployment(tmp_path_factory.mktemp("installation")) as running:
        running.enrol_agent()
        yield running


@pytest.fixture(scope="module")
def socketio_command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return npm_script(tmp_path_factory.mktemp("npm"), CLIENT, "socket.io-client@4")


def unpacked(folder: Path, name: str, needs: list[str]) -> tuple[Path, Path]:
    """Download and unpack the source of `name`; return its folder and a Python, without Probity, that can run its tests."""
    python = folder / "python" / "bin" / "python"
    made = subprocess.run([sys.executable, "-m", "venv", str(folder / "python")], capture_output=True, timeout=100)
    if made.returncode != 0:
        pytest.skip("needs the modules venv and ensurepip")
    pip = [str(python), "-m", "pip", "--quiet"]
    subprocess.run([*pip, "download", "--no-deps", "--no-binary", name, "--dest", str(folder), name], check=True, timeout=200)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as content:
        # Debian's Python 3.11.2 has no `filter` yet; a published package that pip itself would unpack needs none.
        content.extractall(folder)
    source = next(path for path in folder.iterdir() if (path / "pyproject.toml").exists())
    subprocess.run([*pip, "install", "pytest", *needs, str(source)], check=True, timeout=200)
    return source, python


@pytest.mark.parametrize(("name", "needs"), SUITES)
def test_a_public_suite_is_reported_live_and_counted_as_pytest_counts(
    tmp_path: Path, installation: Deployment, socketio_command: list[str], name: str, needs: list[str]
) -> None:
    source, python = unpacked(tmp_path, name, needs)
    listeners = [_Listener([*socketio_command, installation.base_url, installation.api_key, way]) for way in ("polling", "websocket")]
    for listener in listeners:
        listener.wait_for("ready")
    environment = installation.environment() | {"PROBITY_URL": installation.base_url, "PROBITY_API_KEY": installation.api_key}
    base = [sys.executable, "-m", "probity"]
    suite = [str(python), "-m", "pytest", "-p", "no:cacheprovider", "--junitxml=own.xml"]
    command = [*base, "run", "--wait", "--project", name, "--junit", "own.xml", "--json", "--", *suite]

    watcher = _Watcher(installation)
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, timeout=200)
    watched = watcher.result()

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    run = json.loads(done.stdout)
    assert run["totals"] == _totals(source / "own.xml")
    assert watched["first_result_while"] == "running"
    assert watched["seqs"] == list(range(1, watched["seqs"][-1] + 1)), "a client that was cut off misses or repeats an event"
    for listener in listeners:
        listener.wait_for("done")
        first, last = listener.times("result")[0], listener.times("done")[0]
        assert first < last
        listener.close()


class _Listener:
    """The npm client in a process of its own, and what it said."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.said: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.said.append(json.loads(line))

    def close(self) -> None:
        self.process.wait(20)
        self._thread.join(20)

    def times(self, what: str) -> list[float]:
        return [item["at"] for item in list(self.said) if item["what"] == what]

    def wait_for(self, what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not self.times(what):
            assert time.monotonic() < deadline, f"no {what!r} from the npm client; it said {self.said}"
            time.sleep(0.02)


class _Watcher:
    """Finds the next run, follows its stream, cuts itself off every few events and comes back with `Last-Event-ID`."""

    CUT_AFTER = 25

    def __init__(self, installation: Deployment) -> None:
        self._installation = installation
        self._outcome: dict[str, Any] = {}
        with httpx.Client(base_url=installation.base_url, headers=self._headers()) as client:
            self._known = {row["uuid"] for row in client.get("/api/v1/runs").json()["data"]}
        self._thread = threading.Thread(target=lambda: asyncio.run(self._follow()), daemon=True)
        self._thread.start()

    def result(self) -> dict[str, Any]:
        self._thread.join(60)
        assert not self._thread.is_alive(), "the stream did not end with the run"
        return self._outcome

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._installation.api_key}"}

    async def _follow(self) -> None:
        async with httpx.AsyncClient(base_url=self._installation.base_url, timeout=60) as client:
            run = await self._next_run(client)
            seqs: list[int] = []
            while True:
                ended = False
                count = 0
                async for message in messages(
                    client, f"/api/v1/runs/{run}/events", headers=self._headers(), last_id=seqs[-1] if seqs else 0
                ):
                    seqs.append(message["_id"])
                    count += 1
                    if message["type"] == "result" and "first_result_while" not in self._outcome:
                        page = await client.get(f"/api/v1/runs/{run}", headers=self._headers())
                        self._outcome["first_result_while"] = page.json()["state"]
                    ended = message["type"] == "done"
                    if ended or count == self.CUT_AFTER:
                        break
                if ended:
                    self._outcome["seqs"] = seqs
                    return

    async def _next_run(self, client: httpx.AsyncClient) -> str:
        while True:
            rows = (await client.get("/api/v1/runs", headers=self._headers())).json()["data"]
            for row in rows:
                if row["uuid"] not in self._known:
                    return str(row["uuid"])
            await asyncio.sleep(0.02)


def _totals(path: Path) -> dict[str, int]:
    """Count what pytest's own JUnit file says."""
    cases = list(ET.parse(path).getroot().iter("testcase"))
    failed = sum(case.find("failure") is not None for case in cases)
    errors = sum(case.find("error") is not None for case in cases)
    skipped = sum(case.find("skipped") is not None for case in cases)
    total = len(cases)
    return {"total": total, "passed": total - failed - errors - skipped, "failed": failed, "errors": errors, "skipped": skipped, "flaky": 0}
