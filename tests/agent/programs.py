"""Starts the real agent program against a protocol server."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.protocol_server import SECRET, ProtocolServer

ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "AGENT_ONLY": "not-for-children", **more}


def probity(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "probity", *arguments], env=environment(**environ), capture_output=True, text=True, timeout=60
    )


class AgentProcess:
    """An enrolled agent; `kill` is SIGKILL, `stop` is SIGTERM."""

    def __init__(self, server: ProtocolServer, data: Path, log: Path | None = None) -> None:
        self.data = data
        self._log = log or data / "log"
        data.mkdir(mode=0o700, exist_ok=True)
        credential = {"server": server.url, "agent_id": "agent-1", "secret": SECRET, "name": "test", "heartbeat_s": 1, "poll_s": 0.2}
        path = data / "agent.json"
        path.write_text(json.dumps(credential))
        path.chmod(0o600)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, **environ: str) -> None:
        log = self._log.open("ab")
        command = [sys.executable, "-m", "probity", "agent", "run", "--data", str(self.data), *arguments]
        self.process = subprocess.Popen(command, env=environment(**environ), stderr=log, stdout=log)
        log.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 30) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()

    @property
    def log(self) -> str:
        return self._log.read_text()


def is_gone(pid: int) -> bool:
    """Say whether a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def wait_until(condition, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.02)
