"""Migrate, back up, restore: as an operator would, on PostgreSQL that the commands start themselves."""

import asyncio
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from probity.cli.database import own_database
from probity.kernel.postgres import running_cluster
from probity.kernel.secret import Secret

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    for pointer in tmp_path.glob("*/postgres/location"):
        shutil.rmtree(pointer.read_text(encoding="utf-8").strip(), ignore_errors=True)


def probity(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "PROBITY_"))}
    return subprocess.run(
        [sys.executable, "-m", "probity", *map(str, arguments)],
        env={**clean, "PYTHONPATH": str(ROOT / "src"), **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def sql(dsn: Secret, statement: str) -> list[tuple[object, ...]]:
    async def run() -> list[tuple[object, ...]]:
        conn = await asyncpg.connect(dsn.reveal())
        try:
            return [tuple(row) for row in await conn.fetch(statement)]
        finally:
            await conn.close()

    return asyncio.run(run())


def test_migrating_twice_applies_once(data: Path) -> None:
    first = probity("db", "migrate", "--data", data, "--json")
    second = probity("db", "migrate", "--data", data, "--json")

    assert "0001_kernel.sql" in json.loads(first.stdout)["applied"], first.stderr
    assert json.loads(second.stdout) == {"applied": []}


def test_a_restored_backup_has_every_row_right_and_file(data: Path, tmp_path: Path) -> None:
    backup, restored = tmp_path / "backup.tar", tmp_path / "restored"
    assert probity("db", "migrate", "--data", data).returncode == 0
    with own_database(data / "postgres") as target:
        sql(target.dsns.system, "insert into organizations (id, slug, name) values (gen_random_uuid(), 'kept', 'Kept')")
        rights = sql(target.dsns.owner, RIGHTS)
        policies = sql(target.dsns.owner, POLICIES)
    (data / "blobs" / "ab").mkdir(parents=True)
    (data / "blobs" / "ab" / "cd").write_bytes(b"evidence")

    made = probity("db", "backup", backup, "--data", data)
    back = probity("db", "restore", backup, "--data", restored)

    assert made.returncode == 0, made.stderr
    assert backup.stat().st_mode & 0o077 == 0
    assert back.returncode == 0, back.stderr
    assert (restored / "blobs" / "ab" / "cd").read_bytes() == b"evidence"
    with own_database(restored / "postgres") as target:
        assert sql(target.dsns.system, "select slug from organizations") == [("kept",)]
        assert sql(target.dsns.owner, RIGHTS) == rights
        assert sql(target.dsns.owner, POLICIES) == policies
    assert probity("db", "migrate", "--data", restored, "--json").stdout == '{"applied":[]}\n'


# What each role may do with each table, and which rows row-level security leaves it.
RIGHTS = """
select c.relname::text, r.rolname::text, p.privilege
  from pg_class c, pg_roles r, unnest(array['select', 'insert', 'update', 'delete']) as p (privilege)
 where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and r.rolname like 'probity%'
   and has_table_privilege(r.oid, c.oid, p.privilege)
 order by 1, 2, 3
"""
POLICIES = """
select c.relname::text, c.relrowsecurity, c.relforcerowsecurity, p.polname::text
  from pg_class c left join pg_policy p on p.polrelid = c.oid
 where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
 order by 1, 4
"""


def test_a_backup_is_made_while_the_database_runs(data: Path, tmp_path: Path) -> None:
    with own_database(data / "postgres"):
        assert running_cluster(data / "postgres") is not None

        made = probity("db", "backup", tmp_path / "backup.tar", "--data", data, "--json")

        assert json.loads(made.stdout)["members"] == 1, made.stderr


def test_a_damaged_backup_is_refused_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.tar"
    assert probity("db", "migrate", "--data", data).returncode == 0
    assert probity("db", "backup", backup, "--data", data).returncode == 0
    content = bytearray(backup.read_bytes())
    content[2000] ^= 1
    backup.write_bytes(content)

    refused = probity("db", "restore", backup, "--data", tmp_path / "restored")

    assert refused.returncode == 1
    assert "damaged" in refused.stderr
    with own_database(tmp_path / "restored" / "postgres") as target:
        assert sql(target.dsns.owner, "select 1 from pg_class where relnamespace = 'public'::regnamespace") == []


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "files/../../outside"])
def test_a_forged_backup_writes_nothing_elsewhere(data: Path, tmp_path: Path, name: str) -> None:
    forged = tmp_path / "forged.tar"
    with tarfile.open(forged, "w") as archive:
        member = tarfile.TarInfo(name)
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))

    refused = probity("db", "restore", forged, "--data", data)

    assert refused.returncode == 1
    assert "no plain file" in refused.stderr
    assert not list(tmp_path.rglob("outside"))


def test_a_restore_over_data_is_refused(data: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.tar"
    assert probity("db", "migrate", "--data", data).returncode == 0
    assert probity("db", "backup", backup, "--data", data).returncode == 0

    refused = probity("db", "restore", backup, "--data", data)

    assert refused.returncode == 1
    assert "not empty" in refused.stderr


def test_secrets_travel_only_when_asked_for(data: Path, tmp_path: Path) -> None:
    data.mkdir()
    (data / "secrets.json").write_text('{"key": "precious"}', encoding="utf-8")
    plain, whole = tmp_path / "plain.tar", tmp_path / "whole.tar"

    probity("db", "backup", plain, "--data", data)
    probity("db", "backup", whole, "--with-secrets", "--data", data)

    assert b"precious" not in plain.read_bytes()
    assert b"precious" in whole.read_bytes()


def test_a_database_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    refused = probity("db", "migrate", DATABASE_URL="postgresql://probity_app:x@127.0.0.1:1/probity")

    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: the database does not answer")
    assert "Traceback" not in refused.stderr


def test_the_data_directory_is_not_needed_twice(data: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(data)

    assert running_cluster(data / "postgres") is None
