"""A file that holds a secret: readable by its owner only, written whole or not at all."""

import os
import stat
from pathlib import Path

from probity.kernel.secret import Secret


class KeyFileExposed(Exception):
    """Somebody else could have read the key file."""


def read_key_file(path: Path) -> Secret:
    """Return the text of a key file, without surrounding space.

    Raises:
        KeyFileExposed: it is readable by group or others, not a plain file, or belongs to another user.
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, encoding="utf-8") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077 or status.st_uid not in (os.geteuid(), 0):
            raise KeyFileExposed(f"{path} must be a file of yours with mode 0600 (`chmod 600 {path}`); if others read it, change the key")
        return Secret(file.read().strip())


def ensure_key_file(path: Path, secret: Secret) -> Secret:
    """Return the secret in `path`; when there is no such file, put `secret` there first. Two processes end up with the same one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secret.reveal() + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, does not replace the file of a process that was faster.
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink(missing_ok=True)
    return read_key_file(path)
