"""What `probity up` keeps in its data directory: keys made once, readable by the owner only, and where everything else lies."""

import base64
import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from probity.cli.errors import CommandFailed
from probity.kernel.lockfile import AlreadyLocked, locked
from probity.kernel.privatefile import write_private

DATABASE: Final = "probity"
ADMIN_EMAIL: Final = "admin@probity.local"
SECRETS: Final = "secrets.json"


class Secrets(msgspec.Struct, frozen=True):
    """Key material of an installation; lives in `secrets.json`, 0600."""

    master_keys: str
    jwt_secret: str
    admin_email: str
    admin_password: str


@dataclass(frozen=True)
class Installation:
    """One data directory. Two processes never run on it at once."""

    data: Path

    @property
    def postgres(self) -> Path:
        return self.data / "postgres"

    @property
    def agent(self) -> Path:
        return self.data / "agent"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def address(self) -> Path:
        """Where the server was reachable when it last ran, for commands that look for it."""
        return self.data / "address"

    @property
    def sample(self) -> Path:
        return self.data / "sample"

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Make the directory and hold it while the block runs.

        Raises:
            CommandFailed: another `probity up` has it, or it cannot be written.
        """
        try:
            # 0711: the account that PostgreSQL runs as must be able to pass through; the files inside are private.
            self.data.mkdir(mode=0o711, parents=True, exist_ok=True)
            self.logs.mkdir(mode=0o700, exist_ok=True)
            with locked(self.data / "lock"):
                yield
        except AlreadyLocked as error:
            raise CommandFailed(f"{error}. (Is `probity up` running already?)") from error
        except PermissionError as error:
            raise CommandFailed(f"{error.filename} belongs to someone else; name another directory with --data") from error

    def secrets(self) -> Secrets:
        """Return the keys, made at the first call."""
        path = self.data / SECRETS
        if not path.exists():
            write_private(path, msgspec.json.format(msgspec.json.encode(_new_secrets())))
        try:
            return msgspec.json.decode(path.read_bytes(), type=Secrets)
        except msgspec.DecodeError as error:
            raise CommandFailed(f"{path} is damaged ({error}); restore it from a backup, or remove {self.data} to start over") from error


def _new_secrets() -> Secrets:
    return Secrets(
        master_keys=base64.b64encode(secrets.token_bytes(32)).decode(),
        jwt_secret=base64.b64encode(secrets.token_bytes(48)).decode(),
        admin_email=ADMIN_EMAIL,
        # Every kind of character, so that it passes whatever password rule the server has.
        admin_password=f"{secrets.token_urlsafe(12)}-Aa1",
    )
