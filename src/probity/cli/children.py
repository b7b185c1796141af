"""The programs that `probity up` starts beside itself: each with its own log, none outliving it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from probity.cli import lifeline

_LOG_LIMIT_BYTES: Final = 16 * 1024 * 1024
_RESTARTS: Final = 5
_RESTART_WINDOW_S: Final = 60.0


class ChildKeepsEnding(Exception):
    """A child ended again and again; its log says why."""


@dataclass
class Child:
    """One program that is started again when it ends by itself."""

    name: str
    arguments: Sequence[str]
    environ: Mapping[str, str]
    log: Path
    pass_fds: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    _ended_at: list[float] = field(default_factory=list)

    def start(self) -> None:
        if self.log.exists() and self.log.stat().st_size > _LOG_LIMIT_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "wb") as output:
            self.process = subprocess.Popen(
                # -P: a file called redis.py in the working directory must not be imported.
                [sys.executable, "-P", "-m", "probity", *self.arguments],
                env=lifeline.with_parent(dict(self.environ)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C in a terminal reaches the whole group; children are ended in order instead.
                start_new_session=True,
                pass_fds=self.pass_fds,
                umask=0o077,
            )

    def has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def restart_if_ended(self) -> bool:
        """Start it again when it ended; return whether it had.

        Raises:
            ChildKeepsEnding: it ended five times within a minute.
        """
        if not self.has_ended():
            return False
        now = time.monotonic()
        self._ended_at = [moment for moment in self._ended_at if now - moment < _RESTART_WINDOW_S] + [now]
        if len(self._ended_at) >= _RESTARTS:
            raise ChildKeepsEnding(f"the {self.name} keeps ending:\n{self.log_tail()}")
        self.start()
        return True

    def stop(self, *, timeout_s: float) -> None:
        if self.process is None:
            return
        for number, wait_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 5.0)):
            if self.process.poll() is None:
                self.process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(wait_s)

    def log_tail(self, lines: int = 15) -> str:
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


@contextlib.contextmanager
def running(child: Child, *, timeout_s: float) -> Iterator[Child]:
    """Run `child` while the block runs."""
    child.start()
    try:
        yield child
    finally:
        child.stop(timeout_s=timeout_s)
