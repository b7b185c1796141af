"""Sealing, verifying a database and an export, pruning: with somebody who can write every table."""

import asyncio
import json
import os
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probity.audit import rules, store
from probity.audit.errors import ChainBroken
from probity.audit.export import verify_export
from probity.audit.heads import HeadsFile
from probity.audit.models import INSTALLATION, Action, AuditEventId, AuditFilter, BreakReason, Status, Verification
from probity.audit.sealer import Sealer
from probity.audit.service import AuditService, record, verify_file
from probity.kernel.crypto import KeyRing
from probity.kernel.db import Database, DatabaseAway, Tx, fetch_value
from probity.kernel.errors import Denied
from probity.kernel.ids import new_id
from probity.kernel.principal import OrgId, Principal, system_principal
from tests.audit.conftest import RING, FakeNames
from tests.fakes import FakeClock

KEYS = RING.public_keys()


async def write(db: Database, principal: Principal, count: int = 1, *, transactions: int = 1) -> list[AuditEventId]:
    ids: list[AuditEventId] = []
    for _ in range(transactions):
        async with db.transaction(principal) as tx:
            for _ in range(count):
                ids.append(
                    await record(tx, principal, Action.JOB_ENQUEUE, "job:1", metadata={"job_type": "command", "n": [1.50, None, "ä"]})
                )
    return ids


async def exported(audit: AuditService, principal: Principal) -> bytes:
    return b"".join([chunk async for chunk in await audit.export(principal)])


async def test_events_are_chained_per_organization(audit: AuditService, db: Database, admin: Principal, outsider: Principal) -> None:
    await write(db, admin, 3, transactions=2)
    await write(db, outsider, 2)
    async with db.system() as tx:
        await record(tx, system_principal(), Action.AUTH_LOGIN, "auth:login", status=Status.DENIED)

    ours, theirs, everything = await audit.verify(admin), await audit.verify(outsider), await audit.verify_all_tenants()

    assert (ours.verified, ours.events, ours.last_seq) == (True, 6, 6)
    assert (theirs.verified, theirs.events) == (True, 2)
    assert sorted((each.org_id, each.events) for each in everything) == sorted([(admin.org_id, 6), (outsider.org_id, 2), (INSTALLATION, 1)])
    assert all(each.verified for each in everything)


async def test_an_event_of_nobody_belongs_to_the_only_organization(audit: AuditService, db: Database, admin: Principal) -> None:
    async with db.system() as tx:
        await record(tx, system_principal(), Action.AUTH_LOGIN, "auth:login", status=Status.DENIED)

    assert (await audit.verify(admin)).events == 1


async def test_without_the_permission_nothing_is_told(audit: AuditService, db: Database, admin: Principal) -> None:
    nobody = system_principal(admin.org_id)
    for call in (audit.verify(nobody), audit.export(nobody), audit.list_events(nobody, AuditFilter())):
        with pytest.raises(Denied):
            await call


async def test_a_sealer_that_runs_seals_within_a_second(sealer: Sealer, db: Database, admin: Principal) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(sealer.run(stop))
    await write(db, admin, 3)

    await asyncio.sleep(1)
    async with db.system() as tx:
        sealed = await fetch_value(tx, "select count(*) from audit_chain")
    stop.set()
    await running

    assert sealed == 3


class SometimesAway:
    """A database that answers when `is_away` is off."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.is_away = True
        self.failures = 0

    def count(self) -> None:
        self.failures += 1

    def system_connection(self) -> AbstractAsyncContextManager[Tx]:
        if self.is_away:
            raise DatabaseAway("away")
        return self._db.system_connection()

    def system(self) -> AbstractAsyncContextManager[Tx]:
        return self._db.system()


async def test_a_sealer_outlives_a_database_that_is_away(
    monkeypatch: pytest.MonkeyPatch, db: Database, admin: Principal, clock: FakeClock, heads: HeadsFile
) -> None:
    monkeypatch.setattr("probity.audit.sealer._AFTER_ERROR_S", 0.05)
    away = SometimesAway(db)
    await write(db, admin)
    stop = asyncio.Event()
    running = asyncio.create_task(Sealer(cast("Database", away), clock, RING, heads, on_failure=away.count).run(stop))

    await asyncio.sleep(0.3)
    away.is_away = False
    await asyncio.sleep(0.3)
    stop.set()
    await running

    assert away.failures > 1
    assert [head.seq for head in heads.read()] == [1]


async def test_many_sealers_and_writers_make_one_gapless_chain(
    audit: AuditService, db: Database, admin: Principal, clock: FakeClock, heads: HeadsFile
) -> None:
    stop = asyncio.Event()
    sealers = [asyncio.create_task(Sealer(db, clock, RING, heads).run(stop)) for _ in range(3)]

    await asyncio.gather(*(write(db, admin, 5, transactions=20) for _ in range(4)))
    proofs = await asyncio.gather(*(audit.verify(admin) for _ in range(3)))
    stop.set()
    await asyncio.gather(*sealers)

    assert [(each.verified, each.events) for each in proofs] == [(True, 400)] * 3


async def test_a_sealer_that_dies_before_its_commit_loses_nothing(audit: AuditService, db: Database, admin: Principal) -> None:
    await write(db, admin, 5)
    with pytest.raises(KeyError):
        async with db.system() as tx:
            assert len(await store.take_unsealed_all_tenants(tx, 100)) == 5
            raise KeyError

    assert (await audit.verify(admin)).events == 5


@pytest.mark.parametrize(
    ("statement", "reason", "seq"),
    [
        *(
            (f"update audit_events set {change} where id = $1", BreakReason.EVENT_CHANGED, 3)
            for change in (
                "actor = actor || ' '",
                "action = 'job.claim'",
                "resource = 'job:2'",
                "status = 'failure'",
                "occurred_at = occurred_at + interval '1 microsecond'",
                "correlation_id = gen_random_uuid()",
                """metadata = metadata || '{"job_type": "commanD"}'""",
            )
        ),
        # Under row-level security an event that was given to another organization is gone.
        ("update audit_events set org_id = gen_random_uuid() where id = $1", BreakReason.EVENT_MISSING, 3),
        ("update audit_events set org_id = null where id = $1", BreakReason.EVENT_MISSING, 3),
        ("update audit_events set id = gen_random_uuid() where id = $1", BreakReason.EVENT_MISSING, 3),
        ("delete from audit_events where id = $1", BreakReason.EVENT_MISSING, 3),
        ("delete from audit_chain where event_id = $1", BreakReason.LINK_MISSING, 3),
        ("with e as (delete from audit_events where id = $1 returning id) delete from audit_chain using e where event_id = e.id",
         BreakReason.LINK_MISSING, 3),
        ("update audit_chain set event_hash = sha256('x') where event_id = $1", BreakReason.LINK_CHANGED, 3),
        ("update audit_chain set prev_hash = sha256('x') where event_id = $1", BreakReason.LINK_CHANGED, 3),
        ("update audit_chain set chain_hash = sha256('x') where event_id = $1", BreakReason.LINK_CHANGED, 3),
        ("update audit_chain set event_id = gen_random_uuid() where event_id = $1", BreakReason.LINK_CHANGED, 3),
        ("update audit_chain set seq = 100 where event_id = $1", BreakReason.LINK_MISSING, 3),
        ("update audit_chain set org_id = gen_random_uuid() where event_id = $1", BreakReason.LINK_MISSING, 3),
        ("delete from audit_chain where seq > 4 and $1::uuid is not null", BreakReason.TAIL_CUT, 5),
        ("delete from audit_chain where $1::uuid is not null", BreakReason.TAIL_CUT, 1),
    ],
)  # fmt: skip
async def test_tampering_with_the_database_is_named(
    audit: AuditService,
    db: Database,
    admin: Principal,
    tamper: asyncpg.Connection,
    statement: str,
    reason: BreakReason,
    seq: int,
) -> None:
    ids = await write(db, admin, transactions=6)
    assert (await audit.verify(admin)).verified

    await tamper.execute(statement, ids[2])
    found = await audit.verify(admin)

    assert not found.verified
    assert found.broken is not None
    assert (found.broken.reason, found.broken.seq) == (reason, seq)
    if reason not in (BreakReason.LINK_MISSING, BreakReason.TAIL_CUT) and "set event_id" not in statement:
        assert found.broken.event_id == ids[2]


async def test_exchanged_events_are_named(audit: AuditService, db: Database, admin: Principal, tamper: asyncpg.Connection) -> None:
    await write(db, admin, transactions=6)
    await audit.verify(admin)

    for before, after in ((2, 1000), (4, 2), (1000, 4)):
        await tamper.execute("update audit_chain set seq = $2 where seq = $1", before, after)
    found = await audit.verify(admin)

    assert found.broken is not None
    assert found.broken.seq == 2


@pytest.mark.parametrize(
    "change",
    [
        "seq = 2",
        "chain_hash = sha256('x')",
        "signed_at = signed_at + interval '1 s'",
        "key_id = 'x'",
        "signature = 'x'",
        "kind = 'boundary'",
    ],
)
async def test_an_edited_checkpoint_is_named(
    audit: AuditService, db: Database, admin: Principal, tamper: asyncpg.Connection, change: str
) -> None:
    await write(db, admin)
    await audit.verify(admin)
    await write(db, admin, 5)
    await audit.verify(admin)

    await tamper.execute(f"update audit_checkpoints set {change}")
    found = await audit.verify(admin)

    assert found.broken is not None
    assert found.broken.reason is BreakReason.CHECKPOINT_CHANGED


async def test_a_history_written_anew_differs_from_the_heads_outside(
    audit: AuditService, db: Database, admin: Principal, tamper: asyncpg.Connection
) -> None:
    """Somebody with every right in the database, but not on the server's disk, forges the whole chain."""
    ids = await write(db, admin, transactions=4)
    await audit.verify(admin)

    await tamper.execute("delete from audit_checkpoints")
    await tamper.execute("delete from audit_chain")
    await tamper.execute("delete from audit_events where id = $1", ids[1])
    await tamper.execute(
        """
        insert into audit_unsealed (org_id, event_id, event_hash)
        select org_id, id, probity_audit_hash(id, org_id, occurred_at, correlation_id, actor, action, resource, status, metadata)
          from audit_events
        """
    )
    found = await audit.verify(admin)

    assert found.broken is not None
    assert found.broken.reason in (BreakReason.CHECKPOINT_DIFFERS, BreakReason.TAIL_CUT)


async def test_an_event_that_was_slipped_past_the_sealer_is_named(
    audit: AuditService, db: Database, admin: Principal, tamper: asyncpg.Connection
) -> None:
    await write(db, admin)
    await tamper.execute(
        "insert into audit_events (org_id, actor, action, resource, occurred_at) values ($1, 'user:1', 'x', 'y', '2100-01-01')",
        admin.org_id,
    )

    found = await audit.verify(admin)

    assert found.broken is not None
    assert found.broken.reason is BreakReason.EVENT_UNSEALED
    assert found.broken.event_id is not None


async def test_an_edited_or_torn_heads_file(audit: AuditService, db: Database, admin: Principal, heads: HeadsFile) -> None:
    await write(db, admin, 2)
    await audit.verify(admin)
    good = heads.path.read_bytes()

    heads.path.write_bytes(good + b'{"org_id":"torn')
    torn = await audit.verify(admin)
    await write(db, admin)
    appended = await audit.verify(admin)
    heads.path.write_bytes(b"nonsense\n" + good)
    nonsense = await audit.verify(admin)
    heads.path.write_bytes(good.replace(b'"seq":2', b'"seq":1'))
    edited = await audit.verify(admin)

    assert (torn.verified, appended.verified, appended.checkpoints) == (True, True, 3)
    assert nonsense.broken is not None and nonsense.broken.reason is BreakReason.HEADS_FILE_CHANGED
    assert edited.broken is not None and edited.broken.reason is BreakReason.CHECKPOINT_CHANGED
    assert heads.path.stat().st_mode & 0o777 == 0o600


async def test_the_heads_file_keeps_the_last_head_of_each_chain_when_it_is_compacted(
    monkeypatch: pytest.MonkeyPatch, audit: AuditService, db: Database, admin: Principal, outsider: Principal, heads: HeadsFile
) -> None:
    monkeypatch.setattr("probity.audit.heads._COMPACT_AT_BYTES", 2000)
    await write(db, outsider)
    for _ in range(20):
        await write(db, admin)
        assert (await audit.verify(admin)).verified

    assert heads.path.stat().st_size < 2500
    last = {head.org_id: head.seq for head in heads.read()}
    assert last == {admin.org_id: 20, outsider.org_id: 1}


async def test_a_full_disk_under_the_heads_file_delays_the_heads_only(
    monkeypatch: pytest.MonkeyPatch, audit: AuditService, db: Database, admin: Principal, heads: HeadsFile
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    await write(db, admin)
    with monkeypatch.context() as patch:
        patch.setattr("probity.audit.heads.os.write", full)
        assert (await audit.verify(admin)).verified
        assert heads.read() == []
    await write(db, admin)
    await audit.verify(admin)

    assert [head.seq for head in heads.read()] == [2]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    actor=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=200),
    resource=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=500),
    occurred_at=st.integers(-(2 * 10**15), 7 * 10**15).map(lambda each: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=each)),
    metadata=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20),
        st.recursive(
            st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**30), 10**30)
            | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "bb", "Ä"]), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=5,
    ),
)  # fmt: skip
async def test_postgresql_and_python_hash_the_same_bytes(
    db: Database, org: OrgId, actor: str, resource: str, occurred_at: datetime, metadata: dict[str, object]
) -> None:
    async with db.system() as tx:
        event_id = await tx.conn.fetchval(
            "insert into audit_events (org_id, actor, action, resource, occurred_at, metadata)"
            " values ($1, $2, 'x', $3, $4, $5::text::jsonb) returning id",
            org, actor, resource, occurred_at, json.dumps(metadata),
        )  # fmt: skip
        queued = {each.event_id: each.event_hash for each in await store.take_unsealed_all_tenants(tx, 10_000)}
        events = await store.list_events(tx, org, AuditFilter(actor=actor, resource=resource, limit=1000))

    event = next(each for each in events if each.id == event_id)
    assert rules.event_hash(event) == queued[event_id]


async def test_an_export_proves_itself_offline(
    audit: AuditService, db: Database, admin: Principal, outsider: Principal, tmp_path: Path
) -> None:
    await write(db, outsider)
    await write(db, admin, 3)
    path = tmp_path / "export.ndjson"
    path.write_bytes(await exported(audit, admin))

    found = verify_file(path, KEYS)
    with_its_own_key = verify_file(path, {})
    with_another_key = verify_file(path, KeyRing([bytes(range(5, 37))]).public_keys())

    # The export itself is the fourth event.
    assert (found.verified, found.key_trusted, found.events, found.org_id) == (True, True, 4, admin.org_id)
    assert (with_its_own_key.verified, with_its_own_key.key_trusted) == (True, False)
    assert not with_another_key.verified
    assert str(outsider.org_id) not in path.read_text()


async def test_any_flipped_byte_of_an_export_is_found(audit: AuditService, db: Database, admin: Principal) -> None:
    await write(db, admin, 3)
    data = await exported(audit, admin)
    starts = [index for index, line in enumerate(data.splitlines()) if b'"type":"event"' in line]

    for position in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        found = verify_export(bytes(flipped).splitlines(keepends=True), KEYS)
        assert not found.verified, f"byte {position} of {len(data)}"
        line = data[:position].count(b"\n")
        if line in starts and data[position : position + 1] != b"\n":
            assert found.broken is not None
            assert found.broken.seq == starts.index(line) + 1


@pytest.mark.parametrize("kind", ["cut", "deleted", "exchanged", "doubled", "appended", "headless", "empty"])
async def test_an_export_with_changed_lines_is_refused(audit: AuditService, db: Database, admin: Principal, kind: str) -> None:
    await write(db, admin, 5)
    lines = (await exported(audit, admin)).splitlines(keepends=True)
    first = next(index for index, line in enumerate(lines) if b'"type":"event"' in line)
    second = first + 1
    changed: dict[str, tuple[list[bytes], BreakReason, int | None]] = {
        "cut": (lines[: second + 1], BreakReason.TAIL_CUT, 3),
        "deleted": ([*lines[:second], *lines[second + 1 :]], BreakReason.LINK_MISSING, 2),
        "exchanged": ([*lines[:second], lines[second + 1], lines[second], *lines[second + 2 :]], BreakReason.LINK_MISSING, 2),
        "doubled": ([*lines[:second], lines[first], *lines[second:]], BreakReason.LINK_REORDERED, 1),
        "appended": ([*lines, lines[first]], BreakReason.EXPORT_CHANGED, None),
        "headless": (lines[1:], BreakReason.EXPORT_CHANGED, None),
        "empty": ([], BreakReason.EXPORT_CHANGED, None),
    }

    found = verify_export(changed[kind][0], KEYS)

    assert found.broken is not None
    assert (found.broken.reason, found.broken.seq) == changed[kind][1:]


async def test_an_export_of_a_tampered_database_names_the_event(
    audit: AuditService, db: Database, admin: Principal, tamper: asyncpg.Connection
) -> None:
    ids = await write(db, admin, 4)
    await audit.verify(admin)
    await tamper.execute("update audit_events set actor = 'user:x' where id = $1", ids[1])

    found = verify_export((await exported(audit, admin)).splitlines(keepends=True), KEYS)

    assert found.broken is not None
    assert (found.broken.reason, found.broken.event_id) == (BreakReason.EVENT_CHANGED, ids[1])


async def test_retention_leaves_a_signed_boundary(
    audit: AuditService, db: Database, admin: Principal, clock: FakeClock, tamper: asyncpg.Connection
) -> None:
    ids = await write(db, admin, transactions=6)
    await audit.verify(admin)
    for age, event_id in enumerate(reversed(ids)):
        await tamper.execute("update audit_events set occurred_at = $2 where id = $1", event_id, clock.now() - timedelta(days=age))
    # The times were moved for the test, so the chain is made anew from them.
    await tamper.execute("delete from audit_chain; delete from audit_checkpoints")
    await tamper.execute(
        """
        insert into audit_unsealed (org_id, event_id, event_hash, queued_at)
        select org_id, id, probity_audit_hash(id, org_id, occurred_at, correlation_id, actor, action, resource, status, metadata), occurred_at
          from audit_events
        """
    )
    audit._heads.path.unlink()

    boundary = await audit.prune_all_tenants(admin.org_id, clock.now() - timedelta(days=2, hours=12))
    after = await audit.verify(admin)
    again = await audit.prune_all_tenants(admin.org_id, clock.now() - timedelta(days=2, hours=12))
    offline = verify_export((await exported(audit, admin)).splitlines(keepends=True), KEYS)
    async with db.system() as tx:
        left = await fetch_value(tx, "select count(*) from audit_events")

    assert boundary is not None
    assert again == boundary
    assert boundary.seq == 3
    # Three events, the record of the pruning, and the record of the export.
    assert (after.verified, after.first_seq, after.events) == (True, 4, 4)
    assert (offline.verified, offline.first_seq, offline.events, left) == (True, 4, 5, 5)


async def test_retention_may_remove_everything_and_the_chain_goes_on(
    audit: AuditService, db: Database, admin: Principal, clock: FakeClock
) -> None:
    await write(db, admin, 3)
    await audit.prune_all_tenants(admin.org_id, datetime.now(UTC) + timedelta(days=1))
    await write(db, admin)

    found = await audit.verify(admin)

    assert (found.verified, found.first_seq, found.last_seq) == (True, 4, 5)


async def test_retention_refuses_a_trail_that_does_not_verify(
    audit: AuditService, db: Database, admin: Principal, tamper: asyncpg.Connection
) -> None:
    ids = await write(db, admin, 3)
    await audit.verify(admin)
    await tamper.execute("update audit_events set actor = 'user:x' where id = $1", ids[0])

    with pytest.raises(ChainBroken):
        await audit.prune_all_tenants(admin.org_id, datetime.now(UTC) + timedelta(days=1))


async def test_a_forged_boundary_lets_rows_go_and_then_fails_verification(audit: AuditService, db: Database, admin: Principal) -> None:
    """Somebody holds the system role's password, but not the master key."""
    await write(db, admin, 4)
    await audit.verify(admin)
    async with db.system() as tx:
        await tx.conn.execute(
            "insert into audit_checkpoints (org_id, kind, seq, chain_hash, signed_at, key_id, signature)"
            " select org_id, 'boundary', 2, chain_hash, now(), 'x', 'x' from audit_chain where seq = 2"
        )
        await store.delete_oldest_all_tenants(tx, admin.org_id, up_to=2, limit=100)

    found = await audit.verify(admin)

    assert found.broken is not None
    assert (found.broken.reason, found.broken.seq) == (BreakReason.CHECKPOINT_CHANGED, 2)


async def test_a_new_master_key_does_not_break_what_the_old_one_signed(
    db: Database, admin: Principal, clock: FakeClock, heads: HeadsFile, names: FakeNames
) -> None:
    def with_ring(*masters: bytes) -> AuditService:
        ring = KeyRing(masters)
        return AuditService(db, clock, ring, sealer=Sealer(db, clock, ring, heads), heads=heads, names=names)

    old, new = os.urandom(32), os.urandom(32)
    proofs: list[Verification] = []
    for audit in (with_ring(old), with_ring(old, new), with_ring(new)):
        await write(db, admin)
        proofs.append(await audit.verify(admin))
    stranger = await with_ring(os.urandom(32)).verify(admin)

    assert [(each.verified, each.events) for each in proofs] == [(True, 1), (True, 2), (True, 3)]
    assert not stranger.verified


async def test_events_are_listed_newest_first_by_every_filter(
    audit: AuditService, db: Database, admin: Principal, outsider: Principal, names: FakeNames
) -> None:
    assert admin.user_id is not None
    names.users[admin.user_id] = "ada@example.com"
    correlation = new_id()
    await write(db, outsider)
    async with db.transaction(admin) as tx:
        first = await record(tx, admin, Action.AGENT_MINT, "agent:1")
        second = await record(tx, admin, Action.AGENT_REVOKED, "agent:1", correlation_id=correlation)
        third = await record(tx, system_principal(admin.org_id), Action.AGENT_MINT, "agent:2")

    async def ids(**wanted: object) -> list[UUID]:
        return [shown.event.id for shown in await audit.list_events(admin, AuditFilter(**wanted))]  # type: ignore[arg-type]

    everything = await audit.list_events(admin, AuditFilter())
    moment = everything[1].event.occurred_at

    assert [shown.event.id for shown in everything] == [third, second, first]
    assert [shown.actor_display for shown in everything] == ["system", "ada@example.com", "ada@example.com"]
    assert await ids(actor=admin.actor) == [second, first]
    assert await ids(action="agent.mint") == [third, first]
    assert await ids(resource="agent:1") == [second, first]
    assert await ids(correlation_id=correlation) == [second]
    assert await ids(since=moment) == [third, second]
    assert await ids(until=moment) == [first]
    assert await ids(limit=1) == [third]
    assert await ids(actor=outsider.actor) == []


# How a value of each type is changed as little as possible.
SMALLEST_CHANGE = {
    "uuid": "encode(set_byte(uuid_send({0}), 15, get_byte(uuid_send({0}), 15) # 1), 'hex')::uuid",
    "bytea": "set_byte({0}, length({0}) / 2, get_byte({0}, length({0}) / 2) # 1)",
    "text": "{0} || ' '",
    "bigint": "{0} + 1000",
    "timestamp with time zone": "{0} + interval '1 microsecond'",
    "jsonb": """{0} || '{{"a": 1}}'""",
}
CONSTRAINED = {"audit_events.status": "'denied'", "audit_checkpoints.kind": "'boundary'"}


@pytest.mark.parametrize("table", ["audit_events", "audit_chain", "audit_checkpoints"])
async def test_no_column_can_be_changed_unseen(
    audit: AuditService, db: Database, admin: Principal, tamper: asyncpg.Connection, table: str
) -> None:
    """Also one that somebody adds to a table and to no hash or signature."""
    await write(db, admin, transactions=3)
    assert (await audit.verify(admin)).verified
    columns = await tamper.fetch("select column_name as name, data_type from information_schema.columns where table_name = $1", table)
    assert len(columns) > 5
    await tamper.execute(f"create temp table original as select * from {table}")

    for column in columns:
        change = CONSTRAINED.get(f"{table}.{column['name']}") or SMALLEST_CHANGE[column["data_type"]].format(column["name"])
        await tamper.execute(f"update {table} set {column['name']} = {change} where ctid = (select min(ctid) from {table})")
        found = await audit.verify_all_tenants()
        await tamper.execute(f"delete from {table}; insert into {table} select * from original")

        assert not all(each.verified for each in found), f"{table}.{column['name']} was changed and nobody noticed"
    assert (await audit.verify(admin)).verified
