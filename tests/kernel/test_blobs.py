"""Blob stores: one suite over the directory and an S3-compatible server; uploads that nobody claims."""

import asyncio
import hashlib
import os
import resource
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from probity.kernel.blobs import (
    BlobNotFound,
    BlobRef,
    BlobStore,
    BlobStoreAway,
    BlobTooLarge,
    DirectoryBlobStore,
    check_key,
    new_blob_key,
)
from probity.kernel.blobs_s3 import S3BlobStore
from probity.kernel.db import Database, StorageFull, fetch_value
from probity.kernel.locations import S3Location, parse_s3_url
from probity.kernel.principal import Principal
from probity.kernel.uploads import UploadExpired, Uploads
from tests.fakes import FakeClock

MIB = 1024 * 1024
ROOMY = 100 * MIB


async def stream(data: bytes, chunk: int = 64 * 1024) -> AsyncIterator[bytes]:
    for start in range(0, len(data), chunk):
        yield data[start : start + chunk]


async def read(store: BlobStore, key: str, *, start: int = 0, length: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in await store.open(key, start=start, length=length)])


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="probity")
        yield endpoint
        server.stop()


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "directory":
        return DirectoryBlobStore(tmp_path / "blobs")
    endpoint = request.getfixturevalue("s3_endpoint")
    return S3BlobStore(S3Location("probity", prefix="evidence", endpoint=endpoint, region="us-east-1"))


@pytest.mark.parametrize("size", [0, 1, 300 * 1024, 8 * MIB, 17 * MIB + 5])
async def test_what_was_put_is_read_back(store: BlobStore, size: int) -> None:
    data = os.urandom(size)

    blob = await store.put(stream(data), limit_bytes=ROOMY)

    assert (blob.size, blob.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert await read(store, blob.key) == data


@pytest.mark.parametrize(("start", "length"), [(0, 10), (5, None), (5, 3), (999, 1), (999, 100), (1000, None), (1000, 5), (0, 0), (7, 0)])
async def test_a_range_is_read(store: BlobStore, start: int, length: int | None) -> None:
    data = os.urandom(1000)
    blob = await store.put(stream(data), limit_bytes=ROOMY)

    assert await read(store, blob.key, start=start, length=length) == data[start : None if length is None else start + length]


@pytest.mark.parametrize("size", [1001, 20 * MIB])
async def test_a_stream_over_the_limit_leaves_nothing(store: BlobStore, size: int) -> None:
    key = new_blob_key()

    with pytest.raises(BlobTooLarge):
        await store.put(stream(bytes(size)), limit_bytes=size - 1, key=key)

    with pytest.raises(BlobNotFound):
        await store.open(key)


@pytest.mark.parametrize("size", [100, 20 * MIB])
async def test_a_stream_that_breaks_off_leaves_nothing(store: BlobStore, tmp_path: Path, size: int) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(size)
        raise ConnectionResetError

    key = new_blob_key()
    with pytest.raises((ConnectionResetError, BlobStoreAway)):
        await store.put(broken(), limit_bytes=ROOMY, key=key)

    with pytest.raises(BlobNotFound):
        await store.open(key)
    assert await store.sweep(0) == 0
    assert not list(tmp_path.rglob("*.part"))


async def test_a_cancelled_upload_leaves_nothing(store: BlobStore) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield bytes(9 * MIB)
        await asyncio.sleep(60)

    key = new_blob_key()
    putting = asyncio.create_task(store.put(endless(), limit_bytes=ROOMY, key=key))
    await asyncio.sleep(0.3)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting

    with pytest.raises(BlobNotFound):
        await store.open(key)
    assert await store.sweep(0) == 0


async def test_deleting_is_safe_to_repeat(store: BlobStore) -> None:
    blob = await store.put(stream(b"x"), limit_bytes=ROOMY)

    await store.delete(blob.key)
    await store.delete(blob.key)

    with pytest.raises(BlobNotFound):
        await store.open(blob.key)


@pytest.mark.parametrize(
    "key",
    ["", ".", "..", "../../etc/passwd", "/etc/passwd", "ab/../../../etc/passwd", "ab", "AB/" + "0" * 32, "ab/" + "0" * 32 + "\n", "\x00"],
)
async def test_what_is_not_a_key_of_ours_leads_nowhere(store: BlobStore, key: str) -> None:
    with pytest.raises(BlobNotFound):
        await store.open(key)
    with pytest.raises(BlobNotFound):
        await store.delete(key)
    with pytest.raises(BlobNotFound):
        await store.put(stream(b"x"), limit_bytes=10, key=key or ".")


def test_keys_spread_over_directories() -> None:
    keys = [check_key(new_blob_key()) for _ in range(2000)]

    assert len({key[:2] for key in keys}) > 200


async def test_a_link_in_the_store_does_not_lead_out(tmp_path: Path) -> None:
    store, key = DirectoryBlobStore(tmp_path / "blobs"), new_blob_key()
    (tmp_path / "blobs" / key[:2]).mkdir(parents=True)
    (tmp_path / "blobs" / key).symlink_to("/etc/passwd")

    with pytest.raises(BlobStoreAway):
        await store.open(key)


async def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    blob = await DirectoryBlobStore(tmp_path / "blobs").put(stream(b"x"), limit_bytes=10)

    path = tmp_path / "blobs" / blob.key
    assert [each.stat().st_mode & 0o077 for each in (path, path.parent, path.parent.parent)] == [0, 0, 0]


async def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    store, before = DirectoryBlobStore(tmp_path / "blobs"), resource.getrlimit(resource.RLIMIT_FSIZE)
    key = new_blob_key()
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
    try:
        with pytest.raises(StorageFull):
            await store.put(stream(bytes(3 * MIB)), limit_bytes=ROOMY, key=key)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


async def test_what_a_killed_upload_left_is_swept(tmp_path: Path) -> None:
    store = DirectoryBlobStore(tmp_path)
    await store.put(stream(b"x"), limit_bytes=10)
    for name, age_s in (("old", 7200), ("new", 0)):
        path = tmp_path / "incoming" / f"{name}.part"
        path.touch()
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age_s))

    assert await store.sweep(3600) == 1
    assert [path.name for path in (tmp_path / "incoming").iterdir()] == ["new.part"]


async def test_parts_of_a_killed_s3_upload_are_swept(s3_endpoint: str) -> None:
    store = S3BlobStore(S3Location("probity", prefix="swept", endpoint=s3_endpoint, region="us-east-1"))
    client = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    client.create_multipart_upload(Bucket="probity", Key="swept/ab/x")
    client.create_multipart_upload(Bucket="probity", Key="elsewhere")

    assert await store.sweep(-60) >= 1
    left = client.list_multipart_uploads(Bucket="probity").get("Uploads", [])
    assert [upload["Key"] for upload in left] == ["elsewhere"]
    client.abort_multipart_upload(Bucket="probity", Key="elsewhere", UploadId=left[0]["UploadId"])


async def test_an_s3_server_that_is_away_is_said(s3_endpoint: str) -> None:
    store = S3BlobStore(S3Location("probity", endpoint="http://127.0.0.1:9", region="us-east-1"))

    with pytest.raises(BlobStoreAway):
        await store.put(stream(b"x"), limit_bytes=10)


def test_an_s3_address_is_read() -> None:
    assert parse_s3_url("s3://evidence/a/b/?endpoint=https://minio.example.com&region=eu-west-1") == S3Location(
        "evidence", "a/b", "https://minio.example.com", "eu-west-1"
    )
    assert parse_s3_url("s3://evidence") == S3Location("evidence")
    for wrong in ("https://evidence", "s3://", "s3://bucket?endpoint=ftp://x", "s3://bucket?other=1"):
        with pytest.raises(ValueError, match="s3://"):
            parse_s3_url(wrong)


@pytest.fixture
def uploads(db: Database, clock: FakeClock, tmp_path: Path) -> Uploads:
    return Uploads(db, clock, DirectoryBlobStore(tmp_path))


async def test_an_upload_that_is_kept_stays(uploads: Uploads, db: Database, clock: FakeClock, admin: Principal, tmp_path: Path) -> None:
    kept, forgotten = [await uploads.upload(admin, stream(name), limit_bytes=10) for name in (b"kept", b"forgotten")]
    async with db.transaction(admin) as tx:
        await uploads.keep(tx, kept)

    early = await uploads.collect()
    clock.advance(timedelta(hours=25).total_seconds())
    late = await uploads.collect()

    assert (early, late) == (0, 1)
    assert (tmp_path / kept.key).is_file()
    assert not (tmp_path / forgotten.key).exists()


async def test_a_transaction_that_fails_does_not_keep(uploads: Uploads, db: Database, clock: FakeClock, admin: Principal) -> None:
    blob = await uploads.upload(admin, stream(b"x"), limit_bytes=10)
    with pytest.raises(KeyError):
        async with db.transaction(admin) as tx:
            await uploads.keep(tx, blob)
            raise KeyError
    clock.advance(timedelta(hours=25).total_seconds())

    assert await uploads.collect() == 1


async def test_an_upload_that_was_collected_cannot_be_kept(uploads: Uploads, db: Database, clock: FakeClock, admin: Principal) -> None:
    blob = await uploads.upload(admin, stream(b"x"), limit_bytes=10)
    clock.advance(timedelta(hours=25).total_seconds())
    await uploads.collect()

    with pytest.raises(UploadExpired):
        async with db.transaction(admin) as tx:
            await uploads.keep(tx, blob)


async def test_another_organization_cannot_keep_an_upload(uploads: Uploads, db: Database, admin: Principal, outsider: Principal) -> None:
    blob = await uploads.upload(admin, stream(b"x"), limit_bytes=10)

    with pytest.raises(UploadExpired):
        async with db.transaction(outsider) as tx:
            await uploads.keep(tx, blob)


async def test_a_discarded_blob_goes_with_the_next_collection(uploads: Uploads, db: Database, admin: Principal, tmp_path: Path) -> None:
    blob = await uploads.upload(admin, stream(b"x"), limit_bytes=10)
    async with db.transaction(admin) as tx:
        await uploads.keep(tx, blob)
    async with db.transaction(admin) as tx:
        await uploads.discard(tx, blob.key, admin.org_id)

    assert await uploads.collect() == 1
    assert not (tmp_path / blob.key).exists()


async def test_a_store_that_is_away_delays_the_collection(db: Database, clock: FakeClock, admin: Principal) -> None:
    class Away:
        async def put(self, chunks: object, *, limit_bytes: int, key: str | None = None) -> BlobRef:
            return BlobRef(key or "", 0, "")

        async def open(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
            raise BlobStoreAway("away")

        async def delete(self, key: str) -> None:
            raise BlobStoreAway("away")

        async def sweep(self, older_than_s: float) -> int:
            return 0

    uploads = Uploads(db, clock, Away())
    await uploads.upload(admin, stream(b"x"), limit_bytes=10)
    clock.advance(timedelta(hours=25).total_seconds())

    assert await uploads.collect() == 0
    async with db.system() as tx:
        assert await fetch_value(tx, "select count(*) from blob_garbage") == 1
