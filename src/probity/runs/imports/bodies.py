"""The files of an import, spooled to disk: a request may be far larger than what the server should hold in memory."""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterable
from contextlib import ExitStack
from typing import IO, Final, Self

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from probity.kernel.errors import Invalid
from probity.runs.errors import ReportEmpty, ReportTooLarge

MAX_BYTES: Final = 256 * 1024 * 1024
MAX_FILES: Final = 200
_IN_MEMORY_BYTES: Final = 1024 * 1024


class Reports:
    """The files of one request, in their order, and a digest over all of them. Close it to remove them."""

    def __init__(self) -> None:
        self.files: list[IO[bytes]] = []
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()

    async def read(self, chunks: AsyncIterable[bytes], content_type: str | None) -> None:
        """Take in a body: one file, or the files of a multipart form (its other fields are ignored).

        Raises:
            ReportTooLarge, ReportEmpty.
            Invalid: a form that is not one.
        """
        kind, options = parse_options_header(content_type or "")
        if kind == "multipart/form-data":
            await self._read_form(chunks, options.get("boundary", ""))
        else:
            self._begin()
            async for chunk in chunks:
                await self._add(chunk)
        if not self._size:
            raise ReportEmpty
        for file in self.files:
            await asyncio.to_thread(file.seek, 0)

    async def _read_form(self, chunks: AsyncIterable[bytes], boundary: str) -> None:
        try:
            with PushMultipartParser(boundary, max_segment_count=MAX_FILES + 20) as parser:
                is_file = False
                async for chunk in chunks:
                    for part in parser.parse(chunk) if chunk else ():
                        if isinstance(part, MultipartSegment):
                            is_file = part.filename is not None
                            if is_file:
                                self._begin()
                        elif part and is_file:
                            await self._add(bytes(part))
        except MultipartError as error:
            raise Invalid(f"not a readable multipart form: {error}") from error

    def _begin(self) -> None:
        if len(self.files) >= MAX_FILES:
            raise Invalid(f"at most {MAX_FILES} files in one request")
        self._sha256.update(b"\x00file\x00")
        file = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115  (the stack closes it)
        self.files.append(self._stack.enter_context(file))

    async def _add(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size > MAX_BYTES:
            raise ReportTooLarge(MAX_BYTES)
        self._sha256.update(chunk)
        await asyncio.to_thread(self.files[-1].write, chunk)
