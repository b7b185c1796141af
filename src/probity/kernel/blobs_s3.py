"""The blob store in an S3-compatible service. Needs the extra `s3`; credentials come from where boto3 looks (environment, profile, role)."""

import asyncio
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from probity.kernel.blobs import READ_BYTES, BlobNotFound, BlobRef, BlobStoreAway, BlobTooLarge, check_key, new_blob_key
from probity.kernel.db import StorageFull
from probity.kernel.errors import ProbityError
from probity.kernel.locations import S3Location

T = TypeVar("T")

# S3 takes parts of 5 MiB and more (the last may be smaller), at most 10,000 of them.
_PART_BYTES: Final = 8 * 1024 * 1024
_MISSING: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_FULL: Final = frozenset({"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "507"})


class S3BlobStore:
    """Blobs as objects. A stream larger than one part goes up in parts, so memory holds one part per upload."""

    def __init__(self, location: S3Location) -> None:
        self._bucket = location.bucket
        self._prefix = f"{location.prefix.strip('/')}/" if location.prefix.strip("/") else ""
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=location.endpoint,
            region_name=location.region,
            config=Config(
                connect_timeout=5, read_timeout=30, retries={"mode": "standard", "max_attempts": 3}, s3={"addressing_style": "path"}
            ),
        )

    async def put(self, chunks: AsyncIterable[bytes], *, limit_bytes: int, key: str | None = None) -> BlobRef:
        key = check_key(key or new_blob_key())
        upload = _Upload(self._client, self._bucket, self._prefix + key)
        digest = hashlib.sha256()
        size = 0
        waiting = bytearray()
        try:
            async for chunk in chunks:
                size += len(chunk)
                if size > limit_bytes:
                    raise BlobTooLarge(limit_bytes)
                waiting += chunk
                while len(waiting) >= _PART_BYTES:
                    part, waiting = bytes(waiting[:_PART_BYTES]), waiting[_PART_BYTES:]
                    digest.update(part)
                    await _call(upload.add_part, part, key=key)
            digest.update(waiting)
            await _call(upload.finish, bytes(waiting), key=key)
        except BaseException:
            # Shielded: an upload that is cancelled must not leave parts that are paid for.
            await asyncio.shield(asyncio.to_thread(upload.abort))
            raise
        return BlobRef(key, size, digest.hexdigest())

    async def open(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        wanted = f"bytes={start}-" if length is None else f"bytes={start}-{start + length - 1}"
        options = {"Range": wanted} if start or length else {}
        try:
            found = await _call(self._client.get_object, Bucket=self._bucket, Key=self._prefix + check_key(key), key=key, **options)
        except _EmptyRange:
            return _nothing()
        return _read(found["Body"]) if length != 0 else _nothing(found["Body"])

    async def delete(self, key: str) -> None:
        await _call(self._client.delete_object, Bucket=self._bucket, Key=self._prefix + check_key(key), key=key)

    async def sweep(self, older_than_s: float) -> int:
        before = datetime.now(UTC) - timedelta(seconds=older_than_s)
        return await _call(self._abort_uploads, before, key="")

    def _abort_uploads(self, before: datetime) -> int:
        removed = 0
        for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=self._prefix):
            for upload in page.get("Uploads", ()):
                if upload["Initiated"] < before:
                    self._client.abort_multipart_upload(Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                    removed += 1
        return removed


class _EmptyRange(Exception):
    """The range starts at or behind the end."""


class _Upload:
    """One object on its way up: a single request, or parts from the second on."""

    def __init__(self, client: Any, bucket: str, name: str) -> None:
        self._client = client
        self._where = {"Bucket": bucket, "Key": name}
        self._id: str | None = None
        self._parts: list[dict[str, object]] = []

    def add_part(self, data: bytes) -> None:
        if self._id is None:
            self._id = self._client.create_multipart_upload(**self._where)["UploadId"]
        number = len(self._parts) + 1
        sent = self._client.upload_part(**self._where, UploadId=self._id, PartNumber=number, Body=data)
        self._parts.append({"PartNumber": number, "ETag": sent["ETag"]})

    def finish(self, rest: bytes) -> None:
        if self._id is None:
            self._client.put_object(**self._where, Body=rest)
            return
        if rest:
            self.add_part(rest)
        self._client.complete_multipart_upload(**self._where, UploadId=self._id, MultipartUpload={"Parts": self._parts})
        self._id = None

    def abort(self) -> None:
        if self._id is None:
            return
        try:
            self._client.abort_multipart_upload(**self._where, UploadId=self._id)
        except (ClientError, BotoCoreError):
            # `sweep` removes it later.
            return


async def _call(function: Callable[..., T], *args: object, key: str, **options: object) -> T:
    """Call boto3 in a thread and say in our words what went wrong."""
    try:
        return await asyncio.to_thread(function, *args, **options)
    except ClientError as error:
        raise _known(error, key) from error
    except BotoCoreError as error:
        raise BlobStoreAway("the file store does not answer; try again") from error


def _known(error: ClientError, key: str) -> Exception:
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code in _MISSING:
        return BlobNotFound(key)
    if code == "InvalidRange":
        return _EmptyRange()
    known: ProbityError = BlobStoreAway("the file store refused the request; look at its log", reason=code)
    if code in _FULL:
        known = StorageFull("the file store is full; nothing was written. Free space and try again")
    return known


async def _read(body: Any) -> AsyncIterator[bytes]:
    try:
        while chunk := await _call(body.read, READ_BYTES, key=""):
            yield chunk
    finally:
        body.close()


async def _nothing(body: Any = None) -> AsyncIterator[bytes]:
    if body is not None:
        body.close()
    empty: tuple[bytes, ...] = ()
    for chunk in empty:
        yield chunk
