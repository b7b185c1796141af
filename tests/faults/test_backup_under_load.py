"""A backup taken while the server writes: what is restored is whole, and its trail verifies."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.faults.deployment import Deployment, deployment, forget_postgres

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


def test_the_trail_of_a_restored_backup_verifies(tmp_path: Path) -> None:
    with deployment(tmp_path / "origin") as installation:
        stop = threading.Event()
        writing = threading.Thread(target=write, args=(installation, stop))
        writing.start()
        try:
            wait_for_heads(installation.directory / "data" / "audit-heads.ndjson", 8)
            probity(installation, "db", "backup", tmp_path / "backup.tar", "--data", installation.directory / "data")
        finally:
            stop.set()
            writing.join()

        # Without DATABASE_URL a command works on a database of its own below --data.
        probity(installation, "db", "restore", tmp_path / "backup.tar", "--data", tmp_path / "restored", DATABASE_URL=None)
        found = probity(installation, "audit", "verify", "--json", "--data", tmp_path / "restored", DATABASE_URL=None)

    forget_postgres(tmp_path / "restored")
    trails = json.loads(found)["trails"]
    assert sum(trail["events"] for trail in trails) > 10
    assert max(trail["checkpoints"] for trail in trails) > 3, "the heads file was not restored"


def wait_for_heads(path: Path, count: int) -> None:
    """Wait until the trail was sealed a few times, so that there is something that a backup could forget."""
    deadline = time.monotonic() + 60
    while not path.exists() or len(path.read_bytes().splitlines()) < count:
        assert time.monotonic() < deadline, "the trail is not being sealed"
        time.sleep(0.1)


def write(installation: Deployment, stop: threading.Event) -> None:
    with httpx.Client(base_url=installation.base_url, headers={"Authorization": f"Bearer {installation.api_key}"}, timeout=30) as client:
        number = 0
        while not stop.is_set():
            number += 1
            made = client.post("/api/v1/runs", json={"name": f"run {number}", "kind": "external"})
            assert made.status_code == 201, made.text


def probity(installation: Deployment, *arguments: object, **changes: str | None) -> str:
    environment = installation.environment() | {"DATABASE_MIGRATION_URL": installation.dsns.owner.reveal()}
    if "DATABASE_URL" in changes:
        environment = {name: value for name, value in environment.items() if not name.startswith("DATABASE_")}
    command = [sys.executable, "-m", "probity", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=installation.directory, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
