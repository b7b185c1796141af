"""A small real HTTP server that speaks the documented agent and run protocol, with switches for faults.

It keeps in memory what it is told, as the real server would: events once per client id, one completion per job.
"""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

LEASE_S = 30.0
SECRET = "agent-secret-value"
KEY = "pa_" + "0" * 64


@dataclass
class Job:
    id: str
    payload: dict[str, Any]
    job_type: str = "command"
    claimed: bool = False
    leased_until: float = 0.0
    cancel: bool = False
    lost: bool = False
    renewals: int = 0
    completions: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class State:
    jobs: dict[str, Job] = field(default_factory=dict)
    events: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    arrivals: list[float] = field(default_factory=list)
    artifacts: dict[tuple[str, str], bytes] = field(default_factory=dict)
    artifact_keys: list[str] = field(default_factory=list)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    imports: list[bytes] = field(default_factory=list)
    duplicates: int = 0
    heartbeats: list[dict[str, Any]] = field(default_factory=list)
    enrolments: list[dict[str, Any]] = field(default_factory=list)
    # Faults: answer every request with 503, apply a request but drop the reply, refuse the credential, refuse events whose id ends so.
    away: bool = False
    drop_replies: int = 0
    revoked: bool = False
    refuse_events: set[str] = field(default_factory=set)
    slow_s: float = 0.0
    largest_artifact: int = 1_000_000


class ProtocolServer:
    def __init__(self) -> None:
        self.state = State()
        self.changed = threading.Condition()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        owner = self

        class Handler(_Handler):
            server_owner = owner

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request, client_address):  # a client that was killed closes its connection anyhow
                pass

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def add_job(self, command: list[str], **payload: Any) -> Job:
        number = len(self.state.jobs) + 1
        # As unique as real ones: agents find what is left of a job by its id, and tests run beside each other.
        job = Job(str(uuid.uuid4()), {"run_id": f"run-{number}", "command": command, "timeout_s": 60, **payload})
        with self.changed:
            self.state.jobs[job.id] = job
            self.changed.notify_all()
        return job

    def wait_for(self, condition, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout_s} s; jobs: {self.state.jobs}"
            time.sleep(0.01)

    def run_events(self, job: Job, kind: str | None = None) -> list[dict[str, Any]]:
        events = list(self.state.events.get(job.payload["run_id"], {}).values())
        return [event for event in events if kind is None or event["type"] == kind]

    def log_text(self, job: Job, stream: str = "stdout") -> str:
        return "".join(event["text"] for event in self.run_events(job, "log") if event["stream"] == stream)

    def finish(self, job: Job, timeout_s: float = 30.0) -> dict[str, Any]:
        self.wait_for(lambda: job.completions, timeout_s)
        return job.completions[0]


@contextmanager
def protocol_server() -> Iterator[ProtocolServer]:
    server = ProtocolServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()


class _Handler(BaseHTTPRequestHandler):
    server_owner: ProtocolServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(90)

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def _handle(self, method: str) -> None:
        body = self._body()
        state = self.server_owner.state
        if state.slow_s:
            time.sleep(state.slow_s)
        if state.away:
            self._reply(503, {"error": "away"})
            return
        parts = urlsplit(self.path)
        path = parts.path.removeprefix("/api/v1/").split("/")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if state.revoked and path[:1] != ["agents"] and self.headers.get("X-Agent-Secret"):
            self._reply(401, {"error": "agent auth rejected"})
            return
        status, reply = self._route(method, path, query, body)
        if state.drop_replies > 0 and method == "POST" and path[-1] in ("events", "complete", "artifacts"):
            state.drop_replies -= 1
            self.close_connection = True
            self.connection.close()
            return
        if status != 0:
            self._reply(status, reply)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _reply(self, status: int, body: Any) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _route(self, method: str, path: list[str], query: dict[str, str], body: bytes) -> tuple[int, Any]:
        match method, path:
            case "POST", ["agents", "enroll"]:
                return self._enroll(json.loads(body))
            case "POST", ["agents", _, *rest]:
                if self.headers.get("X-Agent-Secret") != SECRET or self.server_owner.state.revoked:
                    return 401, {"error": "agent auth rejected"}
                return self._agent(rest, query, body)
            case "POST", ["runs", "import"]:
                self.server_owner.state.imports.append(body)
                return 201, {
                    "id": "RUN-9",
                    "uuid": "u9",
                    "number": 9,
                    "state": "passed",
                    "totals": {"total": 1, "passed": 1, "failed": 0, "errors": 0, "skipped": 0, "flaky": 0},
                }
            case "POST", ["runs"]:
                return self._create_run(json.loads(body))
            case "POST", ["runs", run, "events"]:
                return self._events(run, json.loads(body)["events"])
            case "POST", ["runs", run, "artifacts"] if len(body) > self.server_owner.state.largest_artifact:
                return 413, {"error": "too large for this server"}
            case "POST", ["runs", run, "artifacts"]:
                self.server_owner.state.artifacts[run, query["name"]] = body
                self.server_owner.state.artifact_keys.append(self.headers["Idempotency-Key"])
                return 201, {"id": "a"}
        return 404, {"error": "not found"}

    def _enroll(self, body: dict[str, Any]) -> tuple[int, Any]:
        if body["enrollment_token"] != "good-token":
            return 401, {"error": "enrollment_token_invalid"}
        self.server_owner.state.enrolments.append(body)
        return 201, {
            "agent_id": "agent-1",
            "agent_token": SECRET,
            "heartbeat_interval_seconds": 30,
            "job_poll_interval_seconds": 1,
            "provider_connection_id": None,
        }

    def _agent(self, rest: list[str], query: dict[str, str], body: bytes) -> tuple[int, Any]:
        state = self.server_owner.state
        match rest:
            case ["heartbeat"]:
                state.heartbeats.append(json.loads(body))
                return 200, {"status": "ok", "server_time": "x", "next_heartbeat_seconds": 1}
            case ["jobs", "claim"]:
                return self._claim(float(query.get("wait", 0)))
            case ["jobs", job_id, "renew"]:
                job = state.jobs[job_id]
                if job.lost or job.completions:
                    return 409, {"error": "job not owned by this agent"}
                job.renewals += 1
                job.leased_until = time.monotonic() + LEASE_S
                return 200, {"claim_expires_at": "x", "cancel": job.cancel}
            case ["jobs", job_id, "complete"]:
                job = state.jobs[job_id]
                if job.lost:
                    return 409, {"error": "job not owned by this agent"}
                if not job.completions:
                    job.completions.append(json.loads(body))
                return 204, None
        return 404, {"error": "not found"}

    def _claim(self, wait_s: float) -> tuple[int, Any]:
        owner = self.server_owner
        deadline = time.monotonic() + min(wait_s, 2)
        with owner.changed:
            while True:
                for job in owner.state.jobs.values():
                    if not job.claimed or (not job.completions and not job.lost and time.monotonic() > job.leased_until):
                        job.claimed = True
                        job.leased_until = time.monotonic() + LEASE_S
                        return 200, {
                            "id": job.id,
                            "job_type": job.job_type,
                            "payload": job.payload,
                            "correlation_id": job.id,
                            "claim_expires_at": "x",
                        }
                if not owner.changed.wait(deadline - time.monotonic()):
                    return 204, None

    def _create_run(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            return 401, {"error": "authentication required"}
        number = len(self.server_owner.state.runs) + 1
        run = {**body, "id": f"RUN-{number}", "uuid": f"uuid-{number}", "number": number, "state": "running"}
        self.server_owner.state.runs[run["uuid"]] = run
        return 201, run

    def _events(self, run: str, events: list[dict[str, Any]]) -> tuple[int, Any]:
        state = self.server_owner.state
        if any(event["id"].endswith(tuple(state.refuse_events)) for event in events):
            return 400, {"error": "bad event"}
        known = state.events.setdefault(run, {})
        fresh = [event for event in events if event["id"] not in known]
        state.duplicates += len(events) - len(fresh)
        for event in fresh:
            known[event["id"]] = event
            state.arrivals.append(time.monotonic())
        return 200, {"accepted": len(fresh), "duplicates": len(events) - len(fresh), "last_seq": len(known)}
