"""How long a start takes on an existing data directory, and how much memory the idle server holds."""

import asyncio
import base64
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from bench.place import Place
from bench.report import Section, aim, median, ratio
from probity.kernel.postgres import embedded_cluster

ABOUT: Final = "Start and idle memory"
_ROUNDS: Final = 5
_COLD_START_AIM_S: Final = 3.0
_IDLE_AIM_MB: Final = 200.0
_SETTLE_S: Final = 5.0

# The floor: what a bare application of the same framework needs to answer one route.
_BARE: Final = """
import sys, uvicorn
from litestar import Litestar, get
@get("/readyz", sync_to_thread=False)
def ready() -> dict[str, str]:
    return {"status": "ready"}
uvicorn.run(Litestar([ready]), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


async def run(place: Place) -> list[Section]:
    return await asyncio.to_thread(_measure, place)


def _measure(place: Place) -> list[Section]:
    with tempfile.TemporaryDirectory() as folder:
        environ = _environment(place, Path(folder))
        ours, memory = zip(*(_serve(environ) for _ in range(_ROUNDS)), strict=True)
        bare, bare_memory = zip(*(_bare() for _ in range(_ROUNDS)), strict=True)
        with_postgres = [_postgres(Path(folder)) for _ in range(_ROUNDS + 1)][1:]
    start, alone = median(ours), median(with_postgres)
    rows = [
        ["server, PostgreSQL running", f"{start:.2f} s", f"{median(memory):.0f} MB", ratio(start, median(bare))],
        ["server and PostgreSQL on existing data", f"{start + alone:.2f} s", "–", ratio(start + alone, median(bare))],
        ["bare Litestar on uvicorn, one route", f"{median(bare):.2f} s", f"{median(bare_memory):.0f} MB", "1.0×"],
    ]
    return [
        Section(
            title="From the start of the process to the first ready answer",
            columns=["what", "start", "memory when idle", "start, to bare"],
            rows=rows,
            aims=[
                aim("cold start under 3 s, PostgreSQL included", _COLD_START_AIM_S, start + alone),
                aim("under 200 MB idle", _IDLE_AIM_MB, median(memory)),
            ],
            notes=[
                f"Medians of {_ROUNDS} starts; memory is the resident set {_SETTLE_S:.0f} s after the first answer.",
                f"PostgreSQL alone on its existing data: {alone:.2f} s. The two start one after the other, so their times are added.",
            ],
        )
    ]


def _serve(environ: dict[str, str]) -> tuple[float, float]:
    return _timed([sys.executable, "-P", "-m", "probity", "serve", "--host", "127.0.0.1", "--port", "{port}"], environ)


def _bare() -> tuple[float, float]:
    return _timed([sys.executable, "-c", _BARE, "{port}"], dict(os.environ))


def _timed(command: list[str], environ: dict[str, str]) -> tuple[float, float]:
    """Start a server; return seconds until it is ready, and its memory in MB once it is at rest."""
    port = _free_port()
    started = time.perf_counter()
    with _running([part.format(port=port) if part == "{port}" else part for part in command], environ) as process:
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=1).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.01)
            if process.poll() is not None:
                raise RuntimeError("the server ended while starting")
        ready = time.perf_counter() - started
        time.sleep(_SETTLE_S)
        return ready, _resident_mb(process.pid)


def _postgres(folder: Path) -> float:
    """Start the embedded PostgreSQL on data that exists from the second call on; return seconds until it is ready."""
    started = time.perf_counter()
    with embedded_cluster(folder / "existing"):
        return time.perf_counter() - started


@contextmanager
def _running(command: list[str], environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def _environment(place: Place, folder: Path) -> dict[str, str]:
    keys = {name: base64.b64encode(secrets.token_bytes(32)).decode() for name in ("PROBITY_MASTER_KEYS", "SB_JWT_SECRET")}
    return {
        **os.environ,
        **keys,
        "DATABASE_URL": place.dsns.app.reveal(),
        "DATABASE_SYSTEM_URL": place.dsns.system.reveal(),
        "PROBITY_DATA_DIR": str(folder / "data"),
        "LOG_LEVEL": "warning",
    }


def _resident_mb(pid: int) -> float:
    kilobytes = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    return int(kilobytes) / 1024


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
