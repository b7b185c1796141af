"""A real Redis for tests, on a socket of its own; skipped by name where there is none (and failed under CI)."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest


class RedisServer:
    def __init__(self, binary: str, root: Path) -> None:
        self._binary = binary
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._root / 'redis.sock'}"

    def start(self) -> None:
        command = [self._binary, "--port", "0", "--unixsocket", str(self._root / "redis.sock"), "--save", "", "--dir", str(self._root)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(100):
            if (self._root / "redis.sock").exists():
                return
            Event().wait(0.05)
        raise RuntimeError("redis-server did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=10)
            self._process = None
            (self._root / "redis.sock").unlink(missing_ok=True)


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        if os.environ.get("CI"):
            pytest.fail("redis-server is not installed")
        pytest.skip("needs redis-server")
    root = Path(tempfile.mkdtemp(prefix="pbr-", dir="/tmp"))
    server = RedisServer(binary, root)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(root, ignore_errors=True)
