"""`probity up` as a person runs it: from nothing, again, twice at once, and killed."""

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
SUITE_SIZE = 20


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "data"
    yield directory
    for pointer in tmp_path.glob("*/postgres/location"):
        shutil.rmtree(pointer.read_text(encoding="utf-8").strip(), ignore_errors=True)


def command(data: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "probity", "up", "--data", str(data), "--port", "0", *arguments]


def environ() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "PROBITY_", "SB_"))}
    return {**clean, "PYTHONPATH": str(ROOT / "src")}


def start(data: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(data, "--json", *arguments),
        env=environ(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def outcome_of(process: subprocess.Popen[str]) -> dict[str, object]:
    """The line that says it is up."""
    assert process.stdout is not None
    return dict(json.loads(process.stdout.readline()))


def family_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def all_gone(processes: list[psutil.Process], *, within_s: float = 30) -> bool:
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        if not any(is_alive(one) for one in processes):
            return True
        time.sleep(0.05)
    return False


def end(process: subprocess.Popen[str], family: list[psutil.Process]) -> None:
    process.kill()
    process.wait()
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.timeout(240)
def test_once_prints_the_outcome_and_leaves_nothing_running(data: Path) -> None:
    done = subprocess.run(
        command(data, "--once", "--json"), env=environ(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["totals"]["total"] == outcome["totals"]["passed"] == SUITE_SIZE
    assert outcome["score"] == {"value": 1.0, "numerator": SUITE_SIZE, "denominator": SUITE_SIZE}
    assert outcome["run"]["state"] == "passed"
    assert outcome["agent"]["name"]
    assert outcome["audit"] == {"verified": True}
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(data) in " ".join(one.info["cmdline"] or [])]
    assert stat.S_IMODE((data / "secrets.json").stat().st_mode) == 0o600


@pytest.mark.timeout(240)
def test_it_starts_again_keeps_its_data_and_stops_when_asked(data: Path) -> None:
    first = start(data)
    outcome = outcome_of(first)
    family = family_of(first)
    first.send_signal(signal.SIGTERM)
    try:
        assert first.wait(60) == 0
        assert all_gone(family)
    finally:
        end(first, family)

    started = time.monotonic()
    second = start(data)
    try:
        again = outcome_of(second)
        took_s = time.monotonic() - started
        # The suite ran at the first start; a second one shows what is there.
        assert "run" in outcome
        assert "run" not in again
        assert again["agent"] == outcome["agent"]
        assert took_s < 15, "a second start takes 3 s on an idle machine"
        second.send_signal(signal.SIGINT)
        assert second.wait(60) == 0
    finally:
        end(second, family)


@pytest.mark.faults
@pytest.mark.timeout(240)
@pytest.mark.parametrize("victims", ["the command", "everything"])
def test_killed_it_leaves_nothing_running_and_the_next_start_recovers(data: Path, victims: str) -> None:
    first = start(data, "--no-demo")
    outcome_of(first)
    family = family_of(first)
    assert len(family) >= 3
    first.kill()
    first.wait()
    for one in family if victims == "everything" else []:
        # The first ones that end take others with them.
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()

    assert all_gone(family)
    second = start(data, "--no-demo")
    try:
        assert "url" in outcome_of(second)
    finally:
        second.send_signal(signal.SIGTERM)
        second.wait(60)
        end(second, [])
        end(first, [])


@pytest.mark.faults
@pytest.mark.timeout(240)
def test_a_killed_server_is_started_again(data: Path) -> None:
    running = start(data, "--no-demo")
    family: list[psutil.Process] = []
    try:
        outcome = outcome_of(running)
        family = family_of(running)
        server = next(one for one in family if "serve" in one.cmdline())
        server.kill()

        host, port = str(outcome["url"]).removeprefix("http://").split(":")
        assert any("serve" in one.cmdline() and one.pid != server.pid for one in _eventually_family(running))
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.settimeout(30)
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(60)
        end(running, family)


def _eventually_family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    time.sleep(3)
    return [one for one in family_of(process) if one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.timeout(240)
def test_a_changed_password_does_not_keep_it_from_starting(data: Path) -> None:
    first = start(data, "--no-demo")
    try:
        outcome_of(first)
    finally:
        first.send_signal(signal.SIGTERM)
        first.wait(60)
        end(first, [])
    kept = json.loads((data / "secrets.json").read_text(encoding="utf-8"))
    (data / "secrets.json").write_text(json.dumps({**kept, "admin_password": "somebody chose another"}), encoding="utf-8")

    second = start(data)
    try:
        assert "run" not in outcome_of(second)
    finally:
        second.send_signal(signal.SIGTERM)
        second.wait(60)
        end(second, [])


@pytest.mark.timeout(240)
def test_a_second_one_on_the_same_directory_is_told(data: Path) -> None:
    first = start(data, "--no-demo")
    try:
        outcome_of(first)
        second = subprocess.run(command(data), env=environ(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

        assert second.returncode == 1
        assert f"in use by process {first.pid}" in second.stderr
        assert "Traceback" not in second.stderr
    finally:
        first.send_signal(signal.SIGTERM)
        first.wait(60)
        end(first, [])


def test_a_taken_port_is_found_before_anything_starts(data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])

        refused = subprocess.run(
            [*command(data), "--port", port], env=environ(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )

    assert refused.returncode == 1
    assert f"port {port}" in refused.stderr
    assert not (data / "postgres").exists()


def test_once_without_the_suite_is_wrong_usage(data: Path) -> None:
    refused = subprocess.run(
        command(data, "--once", "--no-demo"), env=environ(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )

    assert refused.returncode == 2
