"""Changing the master key from the command line."""

import asyncio
import base64
import json
import os
from pathlib import Path

from probity.kernel.crypto import KeyRing
from probity.kernel.db import Database
from probity.kernel.sealed import SealedId, SealedStore
from tests.cli.test_db import probity
from tests.cluster import TestDatabase

OLD, NEW = os.urandom(32), os.urandom(32)


def test_the_old_key_is_not_needed_after_a_rewrap(pg: TestDatabase, db: Database, tmp_path: Path) -> None:
    sealed_id = asyncio.run(put(pg))
    where = {"DATABASE_URL": pg.app.reveal(), "DATABASE_SYSTEM_URL": pg.system.reveal()}

    def command(*keys: bytes) -> tuple[int, str]:
        text = ",".join(base64.b64encode(key).decode() for key in keys)
        done = probity("db", "rewrap", "--json", "--data", tmp_path, PROBITY_MASTER_KEYS=text, **where)
        return done.returncode, done.stdout or done.stderr

    too_early = command(NEW)
    code, said = command(OLD, NEW)
    again, nothing = command(OLD, NEW)

    assert too_early[0] == 1
    assert "put the older key back" in too_early[1]
    assert (code, json.loads(said)) == (0, {"rewrapped": 1, "left": 0})
    assert (again, json.loads(nothing)) == (0, {"rewrapped": 0, "left": 0})
    assert asyncio.run(get(pg, sealed_id)) == b"value"


async def put(pg: TestDatabase) -> SealedId:
    db = await Database.open(dsn=pg.app, system_dsn=pg.system)
    try:
        async with db.system() as tx:
            return await SealedStore(KeyRing([OLD])).put(tx, None, "test", b"value")
    finally:
        await db.close()


async def get(pg: TestDatabase, sealed_id: SealedId) -> bytes:
    db = await Database.open(dsn=pg.app, system_dsn=pg.system)
    try:
        async with db.system() as tx:
            return await SealedStore(KeyRing([NEW])).get(tx, None, sealed_id, "test")
    finally:
        await db.close()
