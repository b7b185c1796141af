"""SQL of organizations, people, roles and numbers."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from probity.identity.errors import EmailTaken, RoleNotFound, SlugTaken, UserNotFound
from probity.identity.models import Member, Membership, Organization, User
from probity.kernel.db import Database, Tx, execute, fetch_all, fetch_one, fetch_rows, fetch_value
from probity.kernel.ids import new_id
from probity.kernel.principal import OrgId, UserId


class _MemberRow(User, frozen=True, kw_only=True):
    is_owner: bool
    joined_at: datetime
    roles: tuple[str, ...]


def user_of(row: Any) -> User:
    """Return the person in a struct or record that has the columns of one, whatever else it has."""
    return User(**{name: row[name] if isinstance(row, asyncpg.Record) else getattr(row, name) for name in User.__struct_fields__})


def memberships_of(value: object) -> tuple[Membership, ...]:
    """Decode what `probity_memberships` returns."""
    return msgspec.convert(value, tuple[Membership, ...])


async def insert_organization(tx: Tx, organization: Organization) -> None:
    try:
        await execute(
            tx,
            "insert into organizations (id, slug, name, created_at, updated_at) values (:id, :slug, :name, :created_at, :created_at)",
            id=organization.id,
            slug=organization.slug,
            name=organization.name,
            created_at=organization.created_at,
        )
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name == "organizations_slug":
            raise SlugTaken(f"the short name {organization.slug!r} is taken", slug=organization.slug) from error
        raise


async def seed_roles(tx: Tx, org_id: OrgId, roles: Mapping[str, tuple[str, list[str]]]) -> None:
    """Insert built-in roles (name → description, permissions); those that exist keep what was made of them."""
    await tx.conn.executemany(
        """
        insert into roles (id, org_id, name, description, permissions, is_system)
        values ($1, $2, $3, $4, $5, true)
        on conflict on constraint roles_name do nothing
        """,
        [(new_id(), org_id, name, description, permissions) for name, (description, permissions) in roles.items()],
    )


async def insert_user(tx: Tx, user: User, password_hash: str | None) -> None:
    """Insert a person, who is invisible until a membership follows."""
    try:
        await execute(
            tx,
            """
            insert into users (id, email, display_name, password_hash, password_changed_at, email_verified_at, created_at, updated_at)
            values (:id, :email, :display_name, :password_hash::text,
                    case when :password_hash::text is null then null else :created_at::timestamptz end,
                    :email_verified_at, :created_at, :created_at)
            """,
            id=user.id,
            email=user.email,
            display_name=user.display_name,
            password_hash=password_hash,
            email_verified_at=user.email_verified_at,
            created_at=user.created_at,
        )
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name == "users_email":
            raise EmailTaken from error
        raise


async def insert_membership(tx: Tx, org_id: OrgId, user_id: UserId, *, is_owner: bool, now: datetime) -> None:
    await execute(
        tx,
        "insert into memberships (org_id, user_id, is_owner, created_at) values (:org_id, :user_id, :is_owner, :now)",
        org_id=org_id,
        user_id=user_id,
        is_owner=is_owner,
        now=now,
    )


async def insert_grant(tx: Tx, org_id: OrgId, user_id: UserId, role: str, *, granted_by: str, now: datetime) -> None:
    """Give a member a role everywhere in the organization."""
    granted = await execute(
        tx,
        """
        insert into role_grants (id, org_id, user_id, role_id, granted_by, granted_at)
        select :id, r.org_id, :user_id, r.id, :granted_by, :now
          from roles r
         where r.org_id = :org_id
           and r.name = :role
        """,
        id=new_id(),
        org_id=org_id,
        user_id=user_id,
        role=role,
        granted_by=granted_by,
        now=now,
    )
    if not granted:
        raise RoleNotFound(f"no such role: {role}", role=role)


async def list_members(tx: Tx, org_id: OrgId, *, after: tuple[datetime, UserId] | None, limit: int) -> list[Member]:
    """Return members, oldest first, after the one with this joining time and id."""
    rows = await fetch_all(
        tx,
        _MemberRow,
        """
        select u.id, u.email, u.display_name, u.avatar_url, u.email_verified_at, u.disabled_at, u.last_login_at, u.created_at,
               m.is_owner, m.created_at as joined_at,
               array(select distinct r.name
                       from role_grants g
                       join roles r on r.org_id = g.org_id and r.id = g.role_id
                      where g.org_id = m.org_id and g.user_id = m.user_id and g.scope = '{}'
                      order by r.name) as roles
          from memberships m
          join users u on u.id = m.user_id
         where m.org_id = :org_id
           and (:after_at::timestamptz is null or (m.created_at, m.user_id) > (:after_at, :after_id::uuid))
         order by m.created_at, m.user_id
         limit :limit
        """,
        org_id=org_id,
        after_at=after[0] if after else None,
        after_id=after[1] if after else None,
        limit=limit,
    )
    return [Member(user=user_of(row), is_owner=row.is_owner, roles=row.roles, joined_at=row.joined_at) for row in rows]


async def user_names(tx: Tx, user_ids: Sequence[UserId]) -> dict[UserId, str]:
    rows = await fetch_rows(tx, "select id, email from users where id = any (:ids::uuid[])", ids=list(user_ids))
    return {UserId(row["id"]): row["email"] for row in rows}


async def get_user(tx: Tx, user_id: UserId) -> User:
    user = await fetch_one(
        tx,
        User,
        """
        select id, email, display_name, avatar_url, email_verified_at, disabled_at, last_login_at, created_at
          from users
         where id = :user_id
        """,
        user_id=user_id,
    )
    if user is None:
        raise UserNotFound
    return user


async def set_password(tx: Tx, user_id: UserId, password_hash: str, now: datetime) -> None:
    """Store a new password; the account is unlocked, since whoever set it has shown that they may."""
    await execute(
        tx,
        """
        update users
           set password_hash = :password_hash, password_changed_at = :now, failed_login_count = 0, locked_until = null, updated_at = :now
         where id = :user_id
        """,
        user_id=user_id,
        password_hash=password_hash,
        now=now,
    )


async def find_user_orgs_all_tenants(db: Database, email: str) -> tuple[UserId, tuple[OrgId, ...]] | None:
    """Return who has this e-mail address and which organizations they belong to."""
    async with db.system() as tx:
        rows = await fetch_rows(
            tx,
            """
            select u.id, array(select m.org_id from memberships m where m.user_id = u.id order by not m.is_owner, m.created_at) as org_ids
              from users u
             where u.email = :email
            """,
            email=email,
        )
    return (UserId(rows[0]["id"]), tuple(OrgId(org_id) for org_id in rows[0]["org_ids"])) if rows else None


async def has_users_all_tenants(db: Database) -> bool:
    async with db.system() as tx:
        return bool(await fetch_value(tx, "select exists (select from users)"))


async def next_number(tx: Tx, org_id: UUID, kind: str) -> int:
    value = await fetch_value(
        tx,
        """
        insert into org_counters (org_id, kind, value)
        values (:org_id, :kind, 1)
            on conflict on constraint org_counters_pkey do update set value = org_counters.value + 1
        returning value
        """,
        org_id=org_id,
        kind=kind,
    )
    return int(value)
