"""`probity serve` as a process: it says what is wrong, shares its port among workers, and never outlives its parent."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.cluster import TestDatabase

ROOT = Path(__file__).parents[2]
KEY = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU="


@pytest.fixture
def environ(pg: TestDatabase, tmp_path: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "PROBITY_"))}
    return {
        **clean,
        "PYTHONPATH": str(ROOT / "src"),
        "PROBITY_ENV": "development",
        "DATABASE_URL": pg.app.reveal(),
        "DATABASE_SYSTEM_URL": pg.system.reveal(),
        "PROBITY_MASTER_KEYS": KEY,
        "PROBITY_JWT_SECRET": KEY,
        "PROBITY_DATA_DIR": str(tmp_path),
    }


def start(environ: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "probity", "serve", *arguments],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int, path: str = "/healthz", *, within_s: float = 30) -> bool:
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
                return bool(reply.status == 200)
        except (OSError, urllib.error.URLError):
            time.sleep(0.05)
    return False


def is_refused(port: int, *, within_s: float = 15) -> bool:
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return True
        time.sleep(0.05)
    return False


def test_a_taken_port_is_one_clear_line(environ: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        server = start(environ, "--port", str(port))
        _, said = server.communicate(timeout=60)

    assert server.returncode == 1
    assert said.startswith(f"Error: cannot listen on 127.0.0.1 port {port}")


def test_every_wrong_setting_is_named_at_once(environ: dict[str, str]) -> None:
    server = start({**environ, "LOG_LEVEL": "loud", "PROBITY_JWT_SECRET": "short"})
    _, said = server.communicate(timeout=60)

    assert server.returncode == 1
    assert "LOG_LEVEL" in said
    assert "PROBITY_JWT_SECRET" in said


def test_a_certificate_without_its_key_is_wrong_usage(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("", encoding="utf-8")

    server = start(environ, "--tls-cert", str(tmp_path / "cert.pem"))
    server.communicate(timeout=60)

    assert server.returncode == 2


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_serves_until_it_is_asked_to_stop(environ: dict[str, str], workers: str) -> None:
    port = free_port()
    server = start(environ, "--port", str(port), "--workers", workers)
    try:
        assert answers(port)
        server.send_signal(signal.SIGTERM)
        _, said = server.communicate(timeout=30)
    finally:
        server.kill()

    assert server.returncode in {0, -signal.SIGTERM}, said
    assert is_refused(port)


@pytest.mark.faults
def test_workers_end_when_their_parent_is_killed(environ: dict[str, str]) -> None:
    port = free_port()
    server = start(environ, "--port", str(port), "--workers", "2")
    try:
        assert answers(port)
    finally:
        server.kill()
        server.communicate(timeout=30)

    assert is_refused(port)
