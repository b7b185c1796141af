"""A disk that fills up: writes are refused in clear words, nothing acknowledged is lost, and all goes on once there is room."""

import asyncio
import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.deployment import Deployment, deployment

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

ROOM = 6 * 1024 * 1024


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 256 MiB of its own, where PostgreSQL's own account can reach it."""
    disk = Path(tempfile.mkdtemp(prefix="pbt-", dir="/tmp"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m,mode=0755", "tmpfs", str(disk)], capture_output=True, check=False)
    if mounted.returncode != 0:
        disk.rmdir()
        if os.environ.get("CI") == "true":
            pytest.fail("a small file system could not be mounted; run the tests as root")
        pytest.skip("mounting a small file system needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
        disk.rmdir()


def fill(disk: Path, *, leave: int) -> Path:
    """Take all room on `disk` but `leave` bytes, and return the file that takes it; may be repeated."""
    ballast = disk / "ballast"
    status = os.statvfs(disk)
    with ballast.open("ab") as file:
        excess = status.f_bavail * status.f_frsize - leave
        if excess > 0:
            os.posix_fallocate(file.fileno(), file.tell(), excess)
    return ballast


def test_a_full_disk_refuses_writes_and_loses_nothing(small_disk: Path) -> None:
    with deployment(small_disk) as installation, client_of(installation) as client:
        ballast = fill(small_disk, leave=ROOM)
        acknowledged: list[str] = []
        refused = write_until_refused(client, acknowledged, small_disk)

        assert refused.status_code == 503, refused.text
        assert "retry-after" in refused.headers
        assert "Traceback" not in refused.text
        assert client.get("/api/v1/runs").status_code in (200, 503)

        ballast.unlink()
        recover(installation)
        made = client.post("/api/v1/runs", json={"name": "after", "kind": "external"})
        assert made.status_code == 201, made.text
        assert asyncio.run(runs_missing(installation, acknowledged)) == []
        proof = client.get("/api/v1/audit-events/verification", headers={"Authorization": f"Bearer {installation.sign_in()}"}).json()
        assert proof["verified"], proof
        assert proof["events"] >= len(acknowledged)


def test_an_upload_that_finds_no_room_leaves_nothing(small_disk: Path) -> None:
    with deployment(small_disk) as installation, client_of(installation) as client:
        run = client.post("/api/v1/runs", json={"name": "r", "kind": "external"}).json()["uuid"]
        ballast = fill(small_disk, leave=ROOM)

        refused = client.post(f"/api/v1/runs/{run}/artifacts", params={"name": "large.bin"}, content=bytes(2 * ROOM))

        assert refused.status_code == 503, refused.text
        ballast.unlink()
        recover(installation)
        stored = [path for path in (small_disk / "data" / "blobs").rglob("*") if path.is_file()]
        assert stored == []
        kept = client.post(f"/api/v1/runs/{run}/artifacts", params={"name": "large.bin"}, content=bytes(2 * ROOM))
        assert kept.status_code == 201, kept.text


@contextlib.contextmanager
def client_of(installation: Deployment) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {installation.api_key}"}
    with httpx.Client(base_url=installation.base_url, headers=headers, timeout=30) as client:
        yield client


def write_until_refused(client: httpx.Client, acknowledged: list[str], disk: Path) -> httpx.Response:
    for number in range(200):
        # A checkpoint of PostgreSQL may have given room back.
        if number % 10 == 9:
            fill(disk, leave=ROOM)
        made = client.post("/api/v1/runs", json={"name": f"run {number}", "kind": "external"})
        if made.status_code != 201:
            return made
        acknowledged.append(made.json()["uuid"])
        events = [
            {"id": f"{number}-{index}", "type": "log", "at": "2026-01-01T00:00:00Z", "stream": "stdout", "text": os.urandom(5000).hex()}
            for index in range(200)
        ]
        for start in range(0, len(events), 50):
            sent = client.post(f"/api/v1/runs/{acknowledged[-1]}/events", json={"events": events[start : start + 50]})
            if sent.status_code != 200:
                return sent
    raise AssertionError("the disk never filled up")


def recover(installation: Deployment) -> None:
    """Do what a supervisor does: PostgreSQL may have stopped when its own log found no room."""
    if not installation.postgres_runs():
        installation.restart_postgres()
    installation.wait_until_ready()


async def runs_missing(installation: Deployment, acknowledged: list[str]) -> list[str]:
    conn = await installation.database()
    try:
        rows = await conn.fetch("select id::text from runs where id = any($1::uuid[])", acknowledged)
    finally:
        await conn.close()
    return sorted(set(acknowledged) - {row["id"] for row in rows})
