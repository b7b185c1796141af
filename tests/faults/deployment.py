"""A whole installation as processes of its own: PostgreSQL with durability on, one server, one agent; each can be killed."""

import asyncio
import base64
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import asyncpg
import httpx

from probity.kernel.migrate import migrate
from probity.kernel.postgres import Cluster, Dsns, create_database, embedded_cluster

ROOT = Path(__file__).parents[2]
EMAIL = "root@example.test"
PASSWORD = "Correct horse battery staple 7!"


class Deployment:
    """Starts and kills the parts. Use as a context manager; nothing is left running afterwards."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = _free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.dsns: Dsns
        self.api_key = ""
        self._postgres = contextlib.ExitStack()
        self._cluster: Cluster
        self._server: subprocess.Popen[bytes] | None = None
        self._agent: subprocess.Popen[bytes] | None = None
        self._keys = {name: base64.b64encode(secrets.token_bytes(32)).decode() for name in ("PROBITY_MASTER_KEYS", "SB_JWT_SECRET")}

    def __enter__(self) -> Self:
        try:
            self.start_postgres()
            self.dsns = asyncio.run(create_database(self._cluster, "probity"))
            asyncio.run(migrate(self.dsns.owner))
            self.start_server()
            self.wait_until_ready()
            self.api_key = self._make_key()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self._agent, self._server):
            if process is not None:
                _end(process)
        self._postgres.close()
        forget_postgres(self.directory)

    # Each kill is followed by the start that an operator's supervisor would make.

    def kill_server(self) -> None:
        assert self._server is not None
        self._server.send_signal(signal.SIGKILL)
        self._server.wait()
        self.start_server()

    def kill_postgres(self) -> None:
        os.kill(self._cluster.pid, signal.SIGKILL)
        self.restart_postgres()

    def postgres_runs(self) -> bool:
        return self._cluster.is_running()

    def restart_postgres(self) -> None:
        self._postgres.close()
        self._postgres = contextlib.ExitStack()
        self.start_postgres()

    def kill_agent(self) -> None:
        assert self._agent is not None
        self._agent.send_signal(signal.SIGKILL)
        self._agent.wait()
        self.start_agent()

    def enrol_agent(self) -> None:
        headers = {"Authorization": f"Bearer {self.api_key}"}
        token = _ok(httpx.post(f"{self.base_url}/api/v1/enrollment-tokens", headers=headers, json={}))["enrollment_token"]
        command = [sys.executable, "-m", "probity", "agent", "enroll", "--server", self.base_url, "--name", "hands", "--token-file", "-"]
        done = subprocess.run(
            [*command, "--data", str(self.directory / "agent")], env=self.environment(), input=str(token), text=True, capture_output=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self.start_agent()

    def start_agent(self) -> None:
        command = [sys.executable, "-m", "probity", "agent", "run", "--concurrency", "3", "--data", str(self.directory / "agent")]
        with (self.directory / "agent.log").open("ab") as log:
            self._agent = subprocess.Popen(command, env=self.environment(), stdout=log, stderr=log, cwd=self.directory)

    def start_postgres(self) -> None:
        self._cluster = self._postgres.enter_context(embedded_cluster(self.directory / "postgres"))

    def start_server(self) -> None:
        command = [sys.executable, "-m", "probity", "serve", "--host", "127.0.0.1", "--port", str(self.port)]
        with (self.directory / "server.log").open("ab") as log:
            self._server = subprocess.Popen(command, env=self.environment(), stdout=log, stderr=log, cwd=self.directory)

    def environment(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE")},
            **self._keys,
            "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), os.environ.get("PYTHONPATH", ""))),
            "DATABASE_URL": self.dsns.app.reveal(),
            "DATABASE_SYSTEM_URL": self.dsns.system.reveal(),
            "PROBITY_ENV": "development",
            "PROBITY_PUBLIC_URL": self.base_url,
            "PROBITY_DATA_DIR": str(self.directory / "data"),
            "PROBITY_ADMIN_EMAIL": EMAIL,
            "PROBITY_ADMIN_PASSWORD": PASSWORD,
            "LOG_LEVEL": "warning",
        }

    def wait_until_ready(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.base_url}/readyz", timeout=2).status_code == 200:
                    return
            assert self._server is not None
            if self._server.poll() is not None:
                self.start_server()
            time.sleep(0.05)
        raise AssertionError(f"the server did not come back:\n{self.log()[-4000:]}")

    def log(self) -> str:
        return (self.directory / "server.log").read_text(encoding="utf-8", errors="replace")

    async def database(self) -> asyncpg.Connection:
        """A look at everything, past row-level security; for the questions at the end."""
        return await asyncpg.connect(self.dsns.system.reveal())

    def sign_in(self) -> str:
        """Return a token of the first administrator."""
        answer = httpx.post(f"{self.base_url}/api/v1/auth/login", json={"email": EMAIL, "password": PASSWORD}, timeout=20)
        return str(_ok(answer)["token"])

    def _make_key(self) -> str:
        headers = {"Authorization": f"Bearer {self.sign_in()}"}
        body = {"name": "faults", "scope": "read-write"}
        made = _ok(httpx.post(f"{self.base_url}/api/api-keys", headers=headers, json=body, timeout=20))
        return str(made["data"]["key"])


@contextlib.contextmanager
def deployment(directory: Path) -> Iterator[Deployment]:
    with Deployment(directory) as running:
        yield running


def forget_postgres(directory: Path) -> None:
    """Remove what PostgreSQL kept outside `directory` because its account could not reach it there."""
    for pointer in directory.glob("postgres/location"):
        shutil.rmtree(pointer.read_text(encoding="utf-8").strip(), ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ok(response: httpx.Response) -> dict[str, dict[str, str]]:
    assert response.status_code in (200, 201), response.text
    body: dict[str, dict[str, str]] = response.json()
    return body


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
