"""Uploads events of a test session from a background thread.

Every event is written to a spool file first and handed to the thread second. The suite never waits for the server, except a bounded
moment at its end; what is not delivered by then stays in the file, which `probity runs import` takes later. Client event ids make
a second delivery harmless. Uses the standard library's HTTP, so that loading it costs a suite nothing noticeable.
"""

import json
import os
import queue
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from probity.kernel.serverurl import server_url

BATCH_EVENTS: Final = 500
BATCH_BYTES: Final = 900_000
# API keys are limited to 60 requests a minute and address (validation contract §4).
PAUSE_S: Final = 1.1
REQUEST_TIMEOUT_S: Final = 10.0
FLUSH_S: Final = 5.0


class Rejected(Exception):
    """The server refused for good; trying again cannot help."""


def start_reporter(environ: Mapping[str, str], *, name: str) -> "BackgroundReporter":
    """Return a reporter for the server named in the environment.

    Reads PROBITY_URL, PROBITY_API_KEY, PROBITY_RUN (an existing run), PROBITY_PROJECT, PROBITY_RUN_NAME, PROBITY_INSECURE and
    PROBITY_SPOOL_DIR.
    """
    client_run_id = uuid.uuid4().hex
    new_run: dict[str, Any] = {"kind": "external", "client_run_id": client_run_id, "name": environ.get("PROBITY_RUN_NAME") or name}
    if project := environ.get("PROBITY_PROJECT"):
        new_run["project"] = project
    api = RunApi(server_url(environ["PROBITY_URL"], insecure=environ.get("PROBITY_INSECURE") == "1"), environ["PROBITY_API_KEY"])
    spool = spool_directory(environ) / f"{time.strftime('%Y%m%d-%H%M%S')}-{client_run_id[:8]}.ndjson"
    return BackgroundReporter(api, spool, run=environ.get("PROBITY_RUN"), new_run=new_run)


def spool_directory(environ: Mapping[str, str]) -> Path:
    """Return the directory for undelivered events: PROBITY_SPOOL_DIR, else below the user's state directory."""
    if chosen := environ.get("PROBITY_SPOOL_DIR"):
        return Path(chosen)
    state = environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "probity" / "spool"


class RunApi:
    """The two requests that the reporter needs."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self._base_url = base_url
        self._api_key = api_key

    def create(self, new_run: dict[str, Any]) -> str:
        run = self._post("/api/v1/runs", new_run)
        return str(run.get("uuid") or run["id"])

    def send(self, run: str, events: list[dict[str, Any]]) -> None:
        self._post(f"/api/v1/runs/{run}/events", {"events": events})

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._api_key}", "Content-Type": "application/json", "User-Agent": "probity-pytest"}
        data = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        request = urllib.request.Request(self._base_url + path, data=data, headers=headers, method="POST")  # noqa: S310 - server_url has checked the scheme
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as reply:  # noqa: S310 - see above
                return dict(json.loads(reply.read() or b"{}"))
        except urllib.error.HTTPError as error:
            with error:
                detail = error.read(300).decode("utf-8", "replace")
            if error.code in (408, 425, 429) or error.code >= 500:
                raise OSError(f"the server answered {error.code}") from error
            raise Rejected(f"the server answered {error.code}: {detail}") from error


class BackgroundReporter:
    def __init__(
        self, api: RunApi, spool: Path, *, run: str | None, new_run: dict[str, Any], flush_s: float = FLUSH_S, pause_s: float = PAUSE_S
    ) -> None:
        self._api = api
        self._run = run
        self._closes_run = run is None
        self._new_run = new_run
        self._flush_s = flush_s
        self._pause_s = pause_s
        self._path = spool
        spool.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._spool = os.open(spool, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._append({"type": "run", "run": run, "new_run": new_run})
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._written = 0
        self._delivered = 0
        self._fault: str | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._deliver, name="probity-reporter", daemon=True)
        self._thread.start()

    def write(self, event: dict[str, Any]) -> None:
        self._append(event)
        self._written += 1
        self._queue.put(event)

    def finish(self, exit_code: int) -> str | None:
        """Deliver what is left within a bounded time and say what became of the results."""
        if self._closes_run:
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            self.write(
                {"id": f"{self._new_run['client_run_id']}-end", "type": "finished", "at": at, "exit_code": exit_code, "reason_code": None}
            )
        self._queue.put(None)
        self._ending.set()
        # A server that has failed already gets one more second, not the whole time.
        self._thread.join(self._flush_s if self._fault is None else min(1.0, self._flush_s))
        os.close(self._spool)
        if self._delivered >= self._written:
            self._path.unlink(missing_ok=True)
            return f"probity: {self._delivered} events delivered to run {self._run}"
        left = self._written - self._delivered
        return (
            f"probity: {left} events not delivered ({self._fault or 'out of time'}); deliver later with: probity runs import {self._path}"
        )

    def _append(self, record: dict[str, Any]) -> None:
        os.write(self._spool, json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n")

    def _deliver(self) -> None:
        ended = False
        while not ended:
            batch, ended = self._next_batch()
            while batch:
                try:
                    if self._run is None:
                        self._run = self._api.create(self._new_run)
                    self._api.send(self._run, batch)
                except Rejected as error:
                    self._fault = str(error)
                    return
                except (OSError, ValueError, KeyError) as error:
                    self._fault = str(error) or type(error).__name__
                    if self._ending.wait(self._pause_s * 2):
                        time.sleep(min(0.2, self._pause_s))
                    continue
                self._delivered += len(batch)
                self._fault = None
                batch = []
            if not ended:
                self._ending.wait(self._pause_s)

    def _next_batch(self) -> tuple[list[dict[str, Any]], bool]:
        """Wait for an event, then take what else is there, up to the limits of one request."""
        batch: list[dict[str, Any]] = []
        size = 0
        event = self._queue.get()
        while event is not None:
            batch.append(event)
            size += len(json.dumps(event))
            if len(batch) >= BATCH_EVENTS or size >= BATCH_BYTES:
                return batch, False
            try:
                event = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True
