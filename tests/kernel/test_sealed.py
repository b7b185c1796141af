"""Stored secrets: sealed for their place, re-wrapped after the master key was changed, nowhere in plain text."""

import asyncio
import os

import asyncpg
import pytest

from probity.kernel.crypto import KeyRing, SealBroken
from probity.kernel.db import Database, execute, fetch_value
from probity.kernel.principal import Principal
from probity.kernel.sealed import SealedStore, SealedValueMissing, rotate_all_tenants
from tests.cluster import TestDatabase

OLD, NEW = os.urandom(32), os.urandom(32)
STORE = SealedStore(KeyRing([OLD]))
CANARY = b"canary-5f1d0c7e-plain-text"


async def test_a_value_is_read_back_replaced_and_forgotten(db: Database, admin: Principal) -> None:
    org_id = admin.org_id
    async with db.transaction(admin) as tx:
        sealed_id = await STORE.put(tx, org_id, "test", b"first")
        first = await STORE.get(tx, org_id, sealed_id, "test")
        await STORE.replace(tx, org_id, sealed_id, "test", b"second")
        second = await STORE.get(tx, org_id, sealed_id, "test")
        await STORE.delete(tx, org_id, sealed_id)
        await STORE.delete(tx, org_id, sealed_id)
        with pytest.raises(SealedValueMissing):
            await STORE.get(tx, org_id, sealed_id, "test")
        with pytest.raises(SealedValueMissing):
            await STORE.replace(tx, org_id, sealed_id, "test", b"third")

    assert (first, second) == (b"first", b"second")


async def test_another_organization_or_purpose_does_not_open_it(db: Database, admin: Principal, outsider: Principal) -> None:
    async with db.transaction(admin) as tx:
        sealed_id = await STORE.put(tx, admin.org_id, "test", b"value")

    for principal, org_id, purpose in (
        (outsider, outsider.org_id, "test"),
        (outsider, admin.org_id, "test"),
        (admin, admin.org_id, "mail"),
    ):
        async with db.transaction(principal) as tx:
            with pytest.raises(SealedValueMissing):
                await STORE.get(tx, org_id, sealed_id, purpose)


async def test_sealed_bytes_moved_to_another_row_do_not_open(db: Database, admin: Principal) -> None:
    async with db.transaction(admin) as tx:
        one, other = [await STORE.put(tx, admin.org_id, "test", value) for value in (b"one", b"other")]
        await execute(
            tx,
            "update sealed_values set sealed = (select sealed from sealed_values where id = :one) where id = :other",
            one=one,
            other=other,
        )
        with pytest.raises(SealBroken):
            await STORE.get(tx, admin.org_id, other, "test")


async def test_a_rotation_makes_the_old_key_unneeded(db: Database, admin: Principal, outsider: Principal) -> None:
    places = []
    for principal in (admin, outsider):
        async with db.transaction(principal) as tx:
            places += [(principal, await STORE.put(tx, principal.org_id, "test", b"value")) for _ in range(600)]
    both = KeyRing([OLD, NEW])

    rotations = await asyncio.gather(rotate_all_tenants(db, both), rotate_all_tenants(db, both))
    again = await rotate_all_tenants(db, both)

    assert sum(each.rewrapped for each in rotations) == 1200
    assert (again.rewrapped, again.left) == (0, 0)
    new_only = SealedStore(KeyRing([NEW]))
    for principal, sealed_id in places[::200]:
        async with db.transaction(principal) as tx:
            assert await new_only.get(tx, principal.org_id, sealed_id, "test") == b"value"


async def test_a_rotation_without_the_old_key_changes_nothing(db: Database, admin: Principal) -> None:
    async with db.transaction(admin) as tx:
        sealed_id = await STORE.put(tx, admin.org_id, "test", b"value")

    with pytest.raises(SealBroken):
        await rotate_all_tenants(db, KeyRing([NEW]))

    async with db.transaction(admin) as tx:
        assert await STORE.get(tx, admin.org_id, sealed_id, "test") == b"value"


async def test_no_plain_text_is_stored_anywhere(db: Database, admin: Principal, pg: TestDatabase) -> None:
    async with db.transaction(admin) as tx:
        await STORE.put(tx, admin.org_id, "test", CANARY)

    assert not await tables_with(pg, CANARY)
    async with db.system() as tx:
        assert await fetch_value(tx, "select count(*) from sealed_values") == 1


async def tables_with(pg: TestDatabase, canary: bytes) -> list[str]:
    """Return every table that has `canary` in a row, as text or as bytes."""
    conn = await asyncpg.connect(pg.owner.reveal().replace("probity_owner@", "postgres@"))
    try:
        found: list[str] = []
        for row in await conn.fetch(
            "select oid::regclass::text as name from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
        ):
            needles = [canary.decode(), canary.hex()]
            if await conn.fetchval(
                f"select exists (select from {row['name']} t where t::text like '%' || $1 || '%' or t::text like '%' || $2 || '%')",
                *needles,
            ):
                found.append(row["name"])
        return found
    finally:
        await conn.close()
