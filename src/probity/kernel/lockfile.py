"""One owner per directory: a lock that the kernel drops when its holder dies, however it dies."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class AlreadyLocked(Exception):
    """Another process holds the lock; `pid` names it when it left its number."""

    def __init__(self, path: Path, pid: int | None) -> None:
        holder = f"process {pid}" if pid else "another process"
        super().__init__(f"{path.parent} is in use by {holder}; stop it first, or name another directory")
        self.pid = pid


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` (made 0600 when absent). Its text is the holder's process id.

    Raises:
        AlreadyLocked: someone else holds it; nothing is waited for.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EACCES, errno.EAGAIN}:
                raise
            raise AlreadyLocked(path, _holder(descriptor)) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        # The file stays: unlinking it would let two processes lock two files of one name.
        os.close(descriptor)


def _holder(descriptor: int) -> int | None:
    text = os.pread(descriptor, 20, 0).strip()
    return int(text) if text.isdigit() else None
