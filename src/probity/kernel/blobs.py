"""Large files outside the database: the store's interface, and the store in a directory.

Keys are made here and name nothing else, so a key from a client can be checked by its form alone. Who owns a blob and how it may be
served is the business of the row that refers to it.
"""

import asyncio
import errno
import hashlib
import os
import re
import time
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import IO, Final, Protocol

import msgspec

from probity.kernel.db import StorageFull
from probity.kernel.errors import NotFound, TooLarge, Unavailable
from probity.kernel.ids import new_id

_KEY: Final = re.compile(r"[0-9a-f]{2}/[0-9a-f]{32}")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Large enough that a hop to a thread per write costs little.
_WRITE_BYTES: Final = 256 * 1024
READ_BYTES: Final = 256 * 1024


class BlobNotFound(NotFound):
    code = "blob_not_found"

    def __init__(self, key: str) -> None:
        super().__init__("the file is not in the store", key=key)


class BlobTooLarge(TooLarge):
    code = "blob_too_large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the file is larger than {limit_bytes} bytes", limit_bytes=limit_bytes)


class BlobStoreAway(Unavailable):
    code = "blob_store_away"


class BlobRef(msgspec.Struct, frozen=True):
    """A stored blob; `sha256` is in hex."""

    key: str
    size: int
    sha256: str


class BlobStore(Protocol):
    """Keeps bytes under a key. One that returned from `put` survives a crash; one that failed left nothing under its key."""

    async def put(self, chunks: AsyncIterable[bytes], *, limit_bytes: int, key: str | None = None) -> BlobRef:
        """Store a stream under `key` (from `new_blob_key`; a fresh one when not given).

        Raises:
            BlobTooLarge: the stream has more than `limit_bytes`.
            StorageFull: there is no room.
            BlobStoreAway: the store does not answer.
        """
        ...

    async def open(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Return the bytes from `start` on, at most `length` of them.

        Raises:
            BlobNotFound: nothing is stored under `key`, or it is not a key.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove a blob; one that is not there is no error."""
        ...

    async def sweep(self, older_than_s: float) -> int:
        """Remove what interrupted uploads left behind, and return how many."""
        ...


def new_blob_key() -> str:
    """Return a fresh key. Its first two digits are evenly spread, so that no directory grows too large."""
    name = new_id().hex
    return f"{name[-2:]}/{name}"


def check_key(key: str) -> str:
    """Return `key`.

    Raises:
        BlobNotFound: it is not of the form of our keys, so nothing can be stored under it.
    """
    if not _KEY.fullmatch(key):
        raise BlobNotFound(key[:100])
    return key


class DirectoryBlobStore:
    """Blobs as files. A file appears under its key whole, or not at all."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / "incoming"

    async def put(self, chunks: AsyncIterable[bytes], *, limit_bytes: int, key: str | None = None) -> BlobRef:
        key = check_key(key or new_blob_key())
        temporary = self._incoming / f"{new_id().hex}.part"
        file = await asyncio.to_thread(self._create, temporary)
        try:
            size, sha256 = await _copy(chunks, file, limit_bytes)
            await asyncio.to_thread(self._finish, file, temporary, key)
        except OSError as error:
            raise _unavailable(error) from error
        finally:
            await asyncio.to_thread(_discard, file, temporary)
        return BlobRef(key, size, sha256)

    async def open(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        path = self._root / check_key(key)
        try:
            file = await asyncio.to_thread(_open_at, path, start)
        except FileNotFoundError:
            raise BlobNotFound(key) from None
        except OSError as error:
            raise _unavailable(error) from error
        return _read(file, length)

    async def delete(self, key: str) -> None:
        path = self._root / check_key(key)
        try:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        except OSError as error:
            raise _unavailable(error) from error

    async def sweep(self, older_than_s: float) -> int:
        return await asyncio.to_thread(self._sweep, time.time() - older_than_s)

    def _create(self, temporary: Path) -> IO[bytes]:
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._incoming.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise _unavailable(error) from error
        return os.fdopen(descriptor, "wb", buffering=0)

    def _finish(self, file: IO[bytes], temporary: Path, key: str) -> None:
        os.fsync(file.fileno())
        path = self._root / key
        path.parent.mkdir(mode=0o700, exist_ok=True)
        temporary.rename(path)
        for directory in (path.parent, self._root):
            _sync_directory(directory)

    def _sweep(self, before: float) -> int:
        removed = 0
        for path in self._incoming.glob("*.part"):
            try:
                if path.stat().st_mtime < before:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:
                continue
        return removed


async def _copy(chunks: AsyncIterable[bytes], file: IO[bytes], limit_bytes: int) -> tuple[int, str]:
    """Write the stream and return its size and hash (hex)."""
    digest = hashlib.sha256()
    size = 0
    waiting = bytearray()
    async for chunk in chunks:
        size += len(chunk)
        if size > limit_bytes:
            raise BlobTooLarge(limit_bytes)
        waiting += chunk
        if len(waiting) >= _WRITE_BYTES:
            await asyncio.to_thread(_write, file, bytes(waiting), digest)
            waiting.clear()
    await asyncio.to_thread(_write, file, bytes(waiting), digest)
    return size, digest.hexdigest()


def _write(file: IO[bytes], data: bytes, digest: "hashlib._Hash") -> None:
    digest.update(data)
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _open_at(path: Path, start: int) -> IO[bytes]:
    # Nobody but the store writes here, but a link put in by somebody else must not lead out.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    os.lseek(descriptor, start, os.SEEK_SET)
    return os.fdopen(descriptor, "rb", buffering=0)


async def _read(file: IO[bytes], length: int | None) -> AsyncIterator[bytes]:
    left = length
    try:
        while left is None or left > 0:
            chunk = await asyncio.to_thread(file.read, READ_BYTES if left is None else min(READ_BYTES, left))
            if not chunk:
                return
            if left is not None:
                left -= len(chunk)
            yield chunk
    finally:
        file.close()


def _discard(file: IO[bytes], temporary: Path) -> None:
    file.close()
    temporary.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unavailable(error: OSError) -> Unavailable:
    if error.errno in _FULL:
        return StorageFull("the server's storage is full; nothing was written. Free space and try again")
    return BlobStoreAway("the file store does not work at the moment; try again", reason=error.strerror or "")
