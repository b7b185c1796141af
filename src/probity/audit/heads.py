"""The signed heads outside the database: one JSON line per chain and sealing. Whoever cuts the trail's tail cannot cut these."""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec

from probity.audit.models import Checkpoint
from probity.kernel.privatefile import write_private

HEADS_FILE: Final = "audit-heads.ndjson"
# Past this size the file is rewritten with the last head of each chain, which covers all before it. A verification checks every signature
# in the file, some 6,000 at this size, half a second.
_COMPACT_AT_BYTES: Final = 2 * 1024 * 1024
_TAIL_BYTES: Final = 64 * 1024


class HeadsFileChanged(Exception):
    """A line of the file is not what a sealer wrote."""

    def __init__(self, line: int) -> None:
        super().__init__(f"line {line} of {HEADS_FILE} is not a signed head")
        self.line = line


class HeadsFile:
    """Append-only as far as a file can be. Several processes may append; a line cut short by a crash is taken away by the next."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / HEADS_FILE

    def append(self, heads: Sequence[Checkpoint]) -> None:
        """Write one line per head and wait until the disk has them.

        Raises:
            OSError: the disk is full or away.
        """
        lines = b"".join(encode_checkpoint(head) + b"\n" for head in heads)
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked() as descriptor:
            _drop_torn_line(descriptor)
            end = os.lseek(descriptor, 0, os.SEEK_END)
            try:
                _write_all(descriptor, lines)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
            if end + len(lines) > _COMPACT_AT_BYTES:
                self._compact()

    def read(self) -> list[Checkpoint]:
        """Return every head, in the order in which they were written; nothing when there is no file.

        Raises:
            HeadsFileChanged: a complete line does not read as a head.
        """
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return []
        heads: list[Checkpoint] = []
        for number, line in enumerate(text.split(b"\n")[:-1], start=1):
            try:
                head = decode_checkpoint(line)
            except msgspec.MsgspecError as error:
                raise HeadsFileChanged(number) from error
            if encode_checkpoint(head) != line:
                raise HeadsFileChanged(number)
            heads.append(head)
        return heads

    def _compact(self) -> None:
        latest: dict[UUID, Checkpoint] = {}
        for head in self.read():
            if head.org_id not in latest or head.seq >= latest[head.org_id].seq:
                latest[head.org_id] = head
        write_private(self.path, b"".join(encode_checkpoint(head) + b"\n" for head in latest.values()))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Open the file under an exclusive lock; open it again when it was rewritten while we waited."""
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                with contextlib.suppress(FileNotFoundError):
                    if os.fstat(descriptor).st_ino == self.path.stat().st_ino:
                        yield descriptor
                        return
            finally:
                os.close(descriptor)


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Return a checkpoint as one JSON object, with its bytes in base64."""
    return msgspec.json.encode(checkpoint)


def decode_checkpoint(line: bytes | msgspec.Raw) -> Checkpoint:
    return msgspec.json.decode(line, type=Checkpoint, strict=True)


def _drop_torn_line(descriptor: int) -> None:
    end = os.lseek(descriptor, 0, os.SEEK_END)
    start = max(0, end - _TAIL_BYTES)
    tail = os.pread(descriptor, end - start, start)
    if tail and not tail.endswith(b"\n"):
        os.ftruncate(descriptor, start + tail.rfind(b"\n") + 1)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
