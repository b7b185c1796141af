"""Where PostgreSQL's files go: its data where its account can reach it, its socket where the path is short."""

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from probity.kernel.postgres.account import Account
from probity.kernel.privatefile import write_private

SHARED: Final = Path("/var/lib/probity")
# sun_path holds 107 bytes and a zero; PostgreSQL appends this name.
_LONGEST_SOCKET_DIR: Final = 107 - len("/.s.PGSQL.5432")


class NoPlace(Exception):
    """PostgreSQL's account can reach no folder that would do; the message says what to open."""


def home_directory(data_dir: Path, account: Account) -> Path:
    """Return the directory that holds PostgreSQL's files: inside `data_dir`, or where `account` can reach it.

    The choice is made once and kept in the file `location`, so that a later change of permissions above does not hide the data.
    """
    pointer = data_dir / "location"
    if pointer.exists():
        home = Path(pointer.read_text(encoding="utf-8").strip())
        if not home.is_dir():
            raise NoPlace(f"{pointer} says the data is in {home}, which is gone; restore it, or remove {data_dir} to start over")
        return home
    if (data_dir / "cluster" / "data").is_dir() or not account.is_other or _is_open_to(account, data_dir):
        home = data_dir / "cluster"
    else:
        home = shared_directory() / _digest(data_dir)
        # A leftover of a removed directory of the same name: its passwords are gone with the directory, so nobody can read it.
        shutil.rmtree(home, ignore_errors=True)
    home.mkdir(exist_ok=True, mode=0o700)
    account.own(home)
    if home.parent != data_dir:
        write_private(pointer, f"{home}\n".encode())
    return home


def _is_open_to(account: Account, data_dir: Path) -> bool:
    # The folder itself is ours to open to the account; the ones above are not.
    if not account.may_enter(data_dir.parent):
        return False
    data_dir.chmod(0o711)
    return account.may_enter(data_dir)


def shared_directory() -> Path:
    """Return a folder of ours that every account can reach."""
    for directory in (SHARED, Path(tempfile.gettempdir()) / "probity-shared"):
        with contextlib.suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
            found = directory.lstat()
            # Looked at before anything is changed: in a folder that everyone writes, this name may be somebody's link to elsewhere.
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                directory.chmod(0o755)
                if os.access(directory, os.W_OK):
                    return directory
    raise NoPlace(f"{SHARED} cannot be written, and PostgreSQL's account cannot reach the data directory; open the folders above it")


@contextlib.contextmanager
def socket_directory(data_dir: Path, account: Account) -> Iterator[Path]:
    """Provide the directory for the socket: short, closed to others, the same for the same data directory."""
    directory = make_socket_directory(data_dir, account)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def make_socket_directory(data_dir: Path, account: Account) -> Path:
    name = f"probity-{_digest(data_dir)}"
    for parent in _runtime_parents():
        directory = parent / name
        if len(os.fsencode(directory)) > _LONGEST_SOCKET_DIR:
            continue
        with contextlib.suppress(OSError):
            directory.mkdir(exist_ok=True, mode=0o700)
            found = directory.lstat()
            # In a folder that everyone writes, someone else may have made this name first.
            if stat.S_ISDIR(found.st_mode) and found.st_uid in {os.geteuid(), account.uid}:
                directory.chmod(0o700)
                account.own(directory)
                if account.may_enter(directory):
                    return directory
    raise NoPlace("no folder is short and open enough for PostgreSQL's socket; set XDG_RUNTIME_DIR to one")


def _runtime_parents() -> Iterator[Path]:
    if os.geteuid() == 0:
        yield Path("/run")
    elif os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(os.environ["XDG_RUNTIME_DIR"])
    yield Path(tempfile.gettempdir())
    yield Path("/tmp")  # noqa: S108  (the name inside is checked for its owner)


def _digest(data_dir: Path) -> str:
    return hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
