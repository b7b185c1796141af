"""Which operating-system account PostgreSQL runs as: it refuses root."""

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

SYSTEM_USER: Final = "probity-postgres"
# PostgreSQL's programs read PG* variables and localized messages would break the reading of its log.
_KEPT: Final = ("PATH", "TMPDIR", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Account:
    """The user and group that PostgreSQL's files and processes belong to."""

    uid: int
    gid: int
    is_other: bool

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run `command` as this account and return it finished, output captured, whatever its exit code."""
        return subprocess.run(
            list(command),
            user=self.uid if self.is_other else None,
            group=self.gid if self.is_other else None,
            extra_groups=[] if self.is_other else None,
            cwd="/",
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, command: Sequence[str], *, cwd: Path, stdin: int, output: int | IO[bytes]) -> subprocess.Popen[bytes]:
        """Start `command` as this account, in its own session: Ctrl-C in a terminal is for us, who end it in order."""
        return subprocess.Popen(
            list(command),
            user=self.uid if self.is_other else None,
            group=self.gid if self.is_other else None,
            extra_groups=[] if self.is_other else None,
            cwd=cwd,
            env=environment(),
            stdin=stdin,
            stdout=output,
            stderr=output,
            start_new_session=True,
            umask=0o077,
        )

    def may_enter(self, directory: Path) -> bool:
        """Whether this account can reach `directory`: every folder above must let it through."""
        return self.run(["/bin/sh", "-c", 'cd -- "$1"', "sh", str(directory)]).returncode == 0

    def own(self, path: Path) -> None:
        if self.is_other:
            os.chown(path, self.uid, self.gid)


def environment() -> Mapping[str, str]:
    return {"LC_ALL": "C", "TZ": "UTC", **{name: os.environ[name] for name in _KEPT if name in os.environ}}


def postgres_account() -> Account:
    """Return the caller's own account, or for root an unprivileged one, made when that is possible."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), is_other=False)
    entry = _find(SYSTEM_USER) or _make(SYSTEM_USER) or _find("nobody")
    if entry is None:
        raise RuntimeError("PostgreSQL does not run as root, and there is no unprivileged user; create one called probity-postgres")
    return Account(entry.pw_uid, entry.pw_gid, is_other=True)


def _find(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _make(name: str) -> pwd.struct_passwd | None:
    for program, arguments in (
        ("useradd", ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/bin/false", name]),
        ("adduser", ["-S", "-D", "-H", "-s", "/bin/false", name]),  # BusyBox
    ):
        path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if path:
            subprocess.run([path, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False)
            # The account database has a lock: of several processes that start together one makes the user, the others find it.
            for _ in range(20):
                if entry := _find(name):
                    return entry
                time.sleep(0.05)
    return None
