"""A backup: one tar file with the database, the blobs and a manifest that proves both are whole.

    manifest.json     what, when, by which version, and the SHA-256 of every other member
    database.dump     pg_dump's custom format, read by a role that row-level security does not filter
    files/…           the data directory's evidence: blobs and signed audit heads
    secrets.json      only when asked for

The master keys are outside on purpose: whoever holds the backup alone cannot open sealed values.
"""

import asyncio
import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Final
from urllib.parse import unquote, urlsplit, urlunsplit

import asyncpg
import msgspec

from probity import __version__
from probity.cli.database import Target
from probity.cli.errors import CommandFailed
from probity.cli.installation import SECRETS
from probity.kernel.postgres import NoPostgres, find_binaries
from probity.kernel.postgres.account import Account
from probity.kernel.postgres.roles import grant_defaults, revoke_defaults
from probity.kernel.privatefile import write_private
from probity.kernel.secret import Secret

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
DUMP: Final = "database.dump"
FILES: Final = "files"
# Of the data directory only what is evidence; PostgreSQL's own files are in the dump, logs and agent state belong to the machine.
BLOBS: Final = "blobs"
HEADS_FILE: Final = "audit-heads.ndjson"
_CHUNK: Final = 1024 * 1024


class Manifest(msgspec.Struct, frozen=True):
    format: int
    probity: str
    created_at: datetime
    members: dict[str, str]


def write_backup(target: Target, data: Path, destination: Path, *, with_secrets: bool) -> Manifest:
    """Write a backup of the database and the evidence below `data` to `destination`, complete or not at all.

    Raises:
        CommandFailed: there is such a file already, or pg_dump fails.
    """
    if destination.exists():
        raise CommandFailed(f"{destination} exists; name another file")
    digests: dict[str, str] = {}
    unfinished = destination.with_name(f".{destination.name}.unfinished")
    with _scratch(destination.parent) as scratch:
        # The signed heads before the database: one that knew of later events would say that the restored trail was cut. The blobs after it:
        # one that arrives later is only surplus, a row without its blob would be a loss.
        heads = _copy_of(data / HEADS_FILE, scratch)
        dump = scratch / DUMP
        _run_postgres_program(target, "pg_dump", ["--format=custom", f"--file={dump}"], target.dsns.system)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w") as archive:
                _add(archive, dump, DUMP, digests)
                if heads is not None:
                    _add(archive, heads, f"{FILES}/{HEADS_FILE}", digests)
                for path in _files_below(data / BLOBS):
                    _add(archive, path, f"{FILES}/{path.relative_to(data)}", digests)
                if with_secrets and (data / SECRETS).exists():
                    _add(archive, data / SECRETS, SECRETS, digests)
                manifest = Manifest(format=FORMAT, probity=__version__, created_at=datetime.now(UTC), members=digests)
                _add_bytes(archive, MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2))
            unfinished.replace(destination)
        finally:
            unfinished.unlink(missing_ok=True)
    return manifest


def restore_backup(target: Target, data: Path, source: Path) -> Manifest:
    """Restore `source` into an empty database and put its files below `data`.

    Every digest is checked before anything is written.

    Raises:
        CommandFailed: the database is not empty, or the file is damaged or of an unknown format.
    """
    _refuse_unless_empty(target)
    with _scratch(data) as scratch:
        manifest = _unpack(source, scratch)
        # One transaction: a restore that fails leaves the database empty.
        arguments = ["--no-owner", "--exit-on-error", "--single-transaction", str(scratch / DUMP)]
        asyncio.run(revoke_defaults(target.dsns.owner))
        try:
            _run_postgres_program(target, "pg_restore", arguments, target.dsns.owner)
        finally:
            asyncio.run(grant_defaults(target.dsns.owner))
        for path in _files_below(scratch / FILES):
            place = data / path.relative_to(scratch / FILES)
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.replace(place)
        if (scratch / SECRETS).exists():
            write_private(data / SECRETS, (scratch / SECRETS).read_bytes())
    return manifest


def _unpack(source: Path, scratch: Path) -> Manifest:
    found: dict[str, str] = {}
    try:
        with tarfile.open(source, mode="r:") as archive:
            for member in archive:
                found[member.name] = _extract(archive, member, scratch)
        manifest = msgspec.json.decode((scratch / MANIFEST).read_bytes(), type=Manifest)
    except (tarfile.TarError, OSError, msgspec.DecodeError) as error:
        raise CommandFailed(f"{source} is not a whole backup: {error}") from error
    del found[MANIFEST]
    if manifest.format != FORMAT:
        raise CommandFailed(f"{source} has format {manifest.format}; this version reads {FORMAT}")
    wrong = sorted(name for name in found.keys() | manifest.members.keys() if found.get(name) != manifest.members.get(name))
    if wrong:
        raise CommandFailed(f"{source} is damaged: {', '.join(wrong[:5])}")
    return manifest


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, scratch: Path) -> str:
    """Write one member below `scratch` and return its digest. The file may be forged: no links, no names that lead elsewhere."""
    content = archive.extractfile(member) if member.isreg() else None
    place = PurePosixPath(member.name)
    if content is None or place.is_absolute() or ".." in place.parts:
        raise CommandFailed(f"this is no backup of ours: {member.name!r} is no plain file in it")
    target = scratch / place
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with target.open("xb") as file:
        shutil.copyfileobj(content, file, _CHUNK)
    return _digest(target)


def _refuse_unless_empty(target: Target) -> None:
    async def count() -> int:
        conn = await asyncpg.connect(target.dsns.owner.reveal())
        try:
            found = await conn.fetchval(
                "select count(*) from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'S')"
            )
            return int(found)
        finally:
            await conn.close()

    if asyncio.run(count()):
        raise CommandFailed("the database is not empty; restore into a new one (`createdb`, or another --data directory)")


def _run_postgres_program(target: Target, program: str, arguments: list[str], dsn: Secret) -> None:
    path = shutil.which(program, path=str(target.programs)) if target.programs else None
    path = path or _newest_on_system(program)
    if path is None:
        raise CommandFailed(f"{program} was not found; install PostgreSQL's client programs, or probity[up]")
    address, password = _without_password(dsn)
    command = [path, f"--dbname={address}", "--no-password", *arguments]
    done = subprocess.run(
        command, env={**os.environ, "PGPASSWORD": password}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise CommandFailed(f"{program} failed: {done.stderr.strip()}")


def _newest_on_system(program: str) -> str | None:
    with contextlib.suppress(NoPostgres):
        binaries = find_binaries(Account(os.geteuid(), os.getegid(), is_other=False), Path(tempfile.gettempdir()))
        if (binaries.directory / program).exists():
            return binaries.path(program)
    return shutil.which(program)


def _without_password(dsn: Secret) -> tuple[str, str]:
    """Split an address, so that the password does not show in the list of processes."""
    parts = urlsplit(dsn.reveal())
    user, _, host = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    return urlunsplit(parts._replace(netloc=f"{name}@{host}")), unquote(password)


@contextlib.contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    # Beside the destination: a large dump belongs on the disk that was chosen for it, not on a small /tmp.
    directory = Path(tempfile.mkdtemp(prefix=".probity-backup-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _copy_of(path: Path, directory: Path) -> Path | None:
    """Return a copy of a file as it is now, or None when there is none."""
    try:
        return Path(shutil.copy2(path, directory))
    except FileNotFoundError:
        return None


def _files_below(directory: Path) -> Iterator[Path]:
    if directory.is_dir():
        yield from (path for path in sorted(directory.rglob("*")) if path.is_file() and not path.is_symlink())


def _add(archive: tarfile.TarFile, path: Path, name: str, digests: dict[str, str]) -> None:
    # An audit file may grow meanwhile: what is read now is what is stored and digested.
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        reader = _Digesting(file, size)
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = size, 0o600, int(path.stat().st_mtime)
        archive.addfile(member, reader)
    digests[name] = reader.hexdigest()


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o600
    archive.addfile(member, io.BytesIO(content))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Digesting(io.RawIOBase):
    """Reads at most `size` bytes of a file and digests what passes."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size
        self._hash = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        chunk = self._file.read(min(wanted, _CHUNK) if size < 0 else wanted)
        self._left -= len(chunk)
        self._hash.update(chunk)
        return chunk

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
