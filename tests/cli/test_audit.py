"""`probity audit`: prove a trail on the database and in a file, and name what is broken by the exit code."""

import asyncio
import base64
import json
import os
import subprocess
from pathlib import Path

import asyncpg
import pytest

from probity.audit.models import Action
from probity.audit.service import record
from probity.kernel.db import Database
from probity.kernel.principal import Principal
from tests.cli.test_db import probity
from tests.cluster import TestDatabase

KEY = base64.b64encode(os.urandom(32)).decode()


@pytest.fixture
async def trail(db: Database, admin: Principal) -> Principal:
    async with db.transaction(admin) as tx:
        for number in range(4):
            await record(tx, admin, Action.AGENT_MINT, f"agent:{number}")
    return admin


async def test_a_trail_is_verified_exported_and_verified_again_without_a_database(
    trail: Principal, pg: TestDatabase, tmp_path: Path
) -> None:
    def command(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return probity("audit", *arguments, "--data", str(tmp_path / "data"), **settings)

    where = {"DATABASE_URL": pg.app.reveal(), "DATABASE_SYSTEM_URL": pg.system.reveal(), "PROBITY_MASTER_KEYS": KEY}
    export = str(tmp_path / "trail.ndjson")

    verified = await asyncio.to_thread(command, "verify", "--json", **where)
    exported = await asyncio.to_thread(command, "export", "--output", export, **where)
    offline = await asyncio.to_thread(command, "verify", "--json", "--file", export, PROBITY_MASTER_KEYS=KEY)
    without_keys = await asyncio.to_thread(command, "verify", "--file", export)
    await tamper(pg)
    broken = await asyncio.to_thread(command, "verify", "--json", **where)

    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert exported.returncode == 0, exported.stderr
    assert (offline.returncode, json.loads(offline.stdout)["trails"][0]["key_trusted"]) == (0, True)
    assert without_keys.returncode == 0
    assert "only the export vouches" in without_keys.stdout
    assert broken.returncode == 1
    found = json.loads(broken.stdout)["trails"][0]["broken"]
    assert (found["reason"], found["seq"]) == ("event_changed", 2)


async def test_pruning_asks_first_and_leaves_a_broken_trail_alone(trail: Principal, pg: TestDatabase, tmp_path: Path) -> None:
    where = {"DATABASE_URL": pg.app.reveal(), "DATABASE_SYSTEM_URL": pg.system.reveal(), "PROBITY_MASTER_KEYS": KEY}

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return probity("audit", *arguments, "--json", "--data", str(tmp_path / "data"), **where)

    await asyncio.to_thread(command, "verify")
    unconfirmed = await asyncio.to_thread(command, "prune", "--older-than", "1")
    nothing = await asyncio.to_thread(command, "prune", "--older-than", "1", "--yes")
    await tamper(pg)
    refused = await asyncio.to_thread(command, "prune", "--older-than", "1", "--yes")

    assert unconfirmed.returncode != 0
    assert (nothing.returncode, nothing.stdout) == (0, '{"removed_up_to":0}\n')
    assert refused.returncode == 1
    assert "does not verify" in refused.stderr


async def tamper(pg: TestDatabase) -> None:
    conn = await asyncpg.connect(pg.owner.reveal().replace("probity_owner@", "postgres@"))
    try:
        await conn.execute("set session_replication_role = replica")
        await conn.execute("update audit_events set resource = 'agent:x' where resource = 'agent:1'")
    finally:
        await conn.close()
