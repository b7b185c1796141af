"""SQL of keys."""

from datetime import datetime
from typing import Any

from probity.identity.keys.models import ApiKey, KeyId, LiveKey
from probity.identity.store import memberships_of
from probity.kernel.db import Database, Tx, execute, fetch_all, fetch_rows
from probity.kernel.principal import OrgId


async def insert_key(tx: Tx, key: ApiKey, key_hash: bytes) -> None:
    await execute(
        tx,
        """
        insert into api_keys (id, org_id, user_id, kind, name, key_prefix, key_hash, scope, permissions, created_at, expires_at)
        values (:id, :org_id, :user_id, 'pa', :name, :key_prefix, :key_hash, :scope, :permissions, :created_at, :expires_at)
        """,
        id=key.id,
        org_id=key.org_id,
        user_id=key.user_id,
        name=key.name,
        key_prefix=key.key_prefix,
        key_hash=key_hash,
        scope=key.scope.value,
        permissions=list(key.permissions),
        created_at=key.created_at,
        expires_at=key.expires_at,
    )


async def list_keys(tx: Tx, org_id: OrgId) -> list[ApiKey]:
    """Return every key of the organization, revoked ones too, newest first; the contract has no pages here, so 1,000 at most."""
    return await fetch_all(
        tx,
        ApiKey,
        """
        select id, org_id, user_id, name, key_prefix, scope, permissions, created_at, expires_at, last_used_at, revoked_at
          from api_keys
         where org_id = :org_id
           and kind = 'pa'
         order by created_at desc, id desc
         limit 1000
        """,
        org_id=org_id,
    )


async def revoke_key(tx: Tx, org_id: OrgId, key_id: KeyId, now: datetime) -> bool:
    """Revoke a key that is not revoked yet; False when there is none."""
    revoked = await execute(
        tx,
        "update api_keys set revoked_at = :now where org_id = :org_id and id = :key_id and kind = 'pa' and revoked_at is null",
        org_id=org_id,
        key_id=key_id,
        now=now,
    )
    return revoked == 1


async def find_key_all_tenants(db: Database, key_hash: bytes) -> LiveKey | None:
    """Return a key that is not revoked and whose maker is not disabled, expired ones included. One statement, by the unique hash."""
    async with db.system_connection() as tx:
        rows = await fetch_rows(
            tx,
            """
            select k.id, k.org_id, k.user_id, k.name, k.key_prefix, k.scope, k.permissions, k.created_at, k.expires_at, k.last_used_at,
                   k.revoked_at, probity_memberships(k.user_id) as maker
              from api_keys k
              join users u on u.id = k.user_id
             where k.key_hash = :key_hash
               and k.kind = 'pa'
               and k.revoked_at is null
               and u.disabled_at is null
            """,
            key_hash=key_hash,
        )
    if not rows:
        return None
    row: dict[str, Any] = dict(rows[0])
    maker = memberships_of(row.pop("maker"))
    row["permissions"] = tuple(row["permissions"])
    return LiveKey(key=ApiKey(**row), maker=maker)


async def note_use(tx: Tx, org_id: OrgId, key_id: KeyId, *, now: datetime, not_since: datetime) -> None:
    """Note a use, unless another request noted one after `not_since`."""
    await execute(
        tx,
        """
        update api_keys
           set last_used_at = :now
         where org_id = :org_id
           and id = :key_id
           and (last_used_at is null or last_used_at <= :not_since)
        """,
        org_id=org_id,
        key_id=key_id,
        now=now,
        not_since=not_since,
    )
