"""What `probity up` does with the running server, as any client would: sign in, enrol this machine, run the sample suite."""

import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import httpx
import msgspec

from probity import __version__
from probity.agent.settings import CAPABILITIES, Credential, load_credential, save_credential
from probity.agent.settings import NotEnrolled as NoCredential
from probity.cli.errors import CommandFailed
from probity.cli.installation import Secrets

SUITE: Final = Path(__file__).parent / "sample"
_RUN_LIMIT_S: Final = 300
_FINAL: Final = frozenset({"passed", "failed", "error", "aborted"})
OnResult = Callable[[str, str, float], None]


class Result(msgspec.Struct, frozen=True):
    name: str
    outcome: str
    duration_ms: float = 0.0


class ResultPage(msgspec.Struct, frozen=True):
    data: list[Result]
    next_cursor: str | None = None


class Run(msgspec.Struct, frozen=True):
    id: str
    uuid: str
    state: str
    totals: dict[str, int]
    reason_code: str | None = None


class AgentRow(msgspec.Struct, frozen=True):
    id: str
    name: str


class SignInRefused(CommandFailed):
    """The first administrator's password is not the one that we made any more."""


class Api:
    """A client of the local server, signed in when that is first needed."""

    def __init__(self, url: str, secrets: Secrets) -> None:
        # Proxies of the environment are for the world outside; this is the same machine.
        self._http = httpx.Client(base_url=url, timeout=30, trust_env=False)
        self._secrets = secrets
        self.url = url

    def close(self) -> None:
        self._http.close()

    def enrol(self, data: Path) -> AgentRow:
        """Enrol this machine, unless `data` holds a credential that the server still accepts."""
        known = self._known_agent(data)
        if known is not None:
            return known
        token = msgspec.json.decode(
            self._send("POST", "/api/v1/enrollment-tokens", {"name": "probity up", "expires_in_seconds": 300, "max_uses": 1}),
            type=_Enrolment,
        )
        name = socket.gethostname()[:63] or "this-machine"
        body = {
            "enrollment_token": token.enrollment_token,
            "agent_name": name,
            "agent_version": __version__,
            "capabilities": list(CAPABILITIES),
            "hostname": socket.gethostname(),
            "os": sys.platform,
            "tags": ["local"],
        }
        reply = self._send("POST", "/api/v1/agents/enroll", body)
        agent = msgspec.json.decode(reply, type=_Enrolled)
        save_credential(
            data,
            Credential(
                server=self.url,
                agent_id=agent.agent_id,
                secret=agent.agent_token,
                name=name,
                heartbeat_s=agent.heartbeat_interval_seconds,
                poll_s=agent.job_poll_interval_seconds,
            ),
        )
        return AgentRow(agent.agent_id, name)

    def can_sign_in(self) -> bool:
        """Whether the kept password still works; who changed it needs no help from us."""
        try:
            self._sign_in()
        except SignInRefused:
            return False
        return True

    def has_runs(self) -> bool:
        return bool(msgspec.json.decode(self._send("GET", "/api/v1/runs?limit=1"), type=_RunPage).data)

    def dispatch_sample(self, agent: AgentRow, suite: Path) -> Run:
        """Queue the sample suite for this machine's agent. A fresh copy is put into `suite` first."""
        shutil.rmtree(suite, ignore_errors=True)
        shutil.copytree(SUITE, suite, ignore=shutil.ignore_patterns("__pycache__"))
        body = {
            "name": "Sample suite",
            "command": [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "--junitxml=junit.xml", "-q"],
            "cwd": str(suite),
            "env": {"SAMPLE_URL": self.url},
            "timeout_s": _RUN_LIMIT_S,
            "agent": agent.id,
            "junit": ["junit.xml"],
        }
        return msgspec.json.decode(self._send("POST", "/api/v1/runs", body), type=Run)

    def follow(self, run: Run, on_result: OnResult) -> Run:
        """Report each result as it arrives and return the finished run.

        Raises:
            CommandFailed: it does not finish in time.
        """
        ends = time.monotonic() + _RUN_LIMIT_S + 60
        cursor: str | None = None
        seen = 0
        while time.monotonic() < ends:
            run = msgspec.json.decode(self._send("GET", f"/api/v1/runs/{run.uuid}"), type=Run)
            # Read before the results: when this state is final, so are they.
            cursor, seen = self._report(run, cursor, seen, on_result)
            if run.state in _FINAL:
                return run
            time.sleep(0.1)
        raise CommandFailed(f"{run.id} did not finish within {_RUN_LIMIT_S} s; see the agent's log")

    def _report(self, run: Run, cursor: str | None, seen: int, on_result: OnResult) -> tuple[str | None, int]:
        """Report what is new. The last page is read again until it is full, so `seen` counts what of it is known."""
        while True:
            after = f"&cursor={cursor}" if cursor else ""
            page = msgspec.json.decode(self._send("GET", f"/api/v1/runs/{run.uuid}/results?limit=200{after}"), type=ResultPage)
            for result in page.data[seen:]:
                on_result(result.outcome, result.name, result.duration_ms)
            if page.next_cursor is None:
                return cursor, len(page.data)
            cursor, seen = page.next_cursor, 0

    def log_tail(self, run: Run, lines: int = 20) -> str:
        """Return the end of what the run printed."""
        text = self._send("GET", f"/api/v1/runs/{run.uuid}/log").decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def audit_verifies(self) -> bool:
        """Whether the organization's audit trail is whole, the events of this very run included."""
        return msgspec.json.decode(self._send("GET", "/api/v1/audit-events/verification"), type=_Verification).verified

    def _known_agent(self, data: Path) -> AgentRow | None:
        try:
            credential = load_credential(data)
        except NoCredential:
            return None
        reply = self._http.post(
            f"/api/v1/agents/{credential.agent_id}/heartbeat", headers={"x-agent-secret": credential.secret}, json={"status": "healthy"}
        )
        if not reply.is_success:
            return None
        if credential.server != self.url:
            save_credential(data, msgspec.structs.replace(credential, server=self.url))
        return AgentRow(credential.agent_id, credential.name)

    def _sign_in(self) -> None:
        reply = self._request("POST", "/api/v1/auth/login", {"email": self._secrets.admin_email, "password": self._secrets.admin_password})
        if reply.status_code == 401:
            raise SignInRefused(
                "the first administrator's password was changed; give yours by PROBITY_ADMIN_EMAIL and PROBITY_ADMIN_PASSWORD"
            )
        # The token is enough; a session cookie beside it would make every write prove its origin.
        self._http.cookies.clear()
        self._http.headers["authorization"] = f"Bearer {msgspec.json.decode(self._accepted(reply), type=_Token).token}"

    def _send(self, method: str, path: str, body: Mapping[str, object] | None = None) -> bytes:
        if "authorization" not in self._http.headers:
            self._sign_in()
        return self._accepted(self._request(method, path, body))

    def _request(self, method: str, path: str, body: Mapping[str, object] | None) -> httpx.Response:
        try:
            return self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise CommandFailed(f"the server did not answer {method} {path}: {error}") from error

    def _accepted(self, reply: httpx.Response) -> bytes:
        if not reply.is_success:
            asked = reply.request
            raise CommandFailed(f"the server refused {asked.method} {asked.url.path} with {reply.status_code}: {reply.text[:300]}")
        return reply.content


class _Token(msgspec.Struct, frozen=True):
    token: str


class _Enrolment(msgspec.Struct, frozen=True):
    enrollment_token: str


class _Enrolled(msgspec.Struct, frozen=True):
    agent_id: str
    agent_token: str
    heartbeat_interval_seconds: float = 30
    job_poll_interval_seconds: float = 10


class _Verification(msgspec.Struct, frozen=True):
    verified: bool


class _RunPage(msgspec.Struct, frozen=True):
    data: list[msgspec.Raw]
