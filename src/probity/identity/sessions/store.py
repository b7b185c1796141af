"""SQL of sign-in, sessions and their credentials."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from probity.identity.sessions.models import Account, Caller, KnownUser, LiveSession, Session, SessionId
from probity.identity.sessions.tokens import CredentialForm
from probity.identity.store import memberships_of, user_of
from probity.kernel.db import Database, Tx, execute, fetch_rows, fetch_value
from probity.kernel.principal import OrgId, UserId


def _session_of(row: Any) -> Session:
    return Session(
        id=row["session_id"],
        user_id=row["id"],
        kind=row["kind"],
        active_org_id=row["active_org_id"],
        created_at=row["session_created_at"],
        last_used_at=row["last_used_at"],
        expires_at=row["expires_at"],
        idle_expires_at=row["idle_expires_at"],
        mfa_at=row["mfa_at"],
        mfa_pending=row["mfa_pending"],
        revoked_at=row["revoked_at"],
    )


async def find_session_all_tenants(db: Database, credential_hash: bytes) -> tuple[CredentialForm, LiveSession] | None:
    """Return the session that a credential opens, expired and revoked ones included; not those of disabled people.

    One statement outside a transaction: every authenticated request runs it.
    """
    async with db.system_connection() as tx:
        rows = await fetch_rows(
            tx,
            """
            select c.kind as form, s.id as session_id, s.kind, s.active_org_id, s.created_at as session_created_at, s.last_used_at,
                   s.expires_at, s.idle_expires_at, s.mfa_at, s.mfa_pending, s.revoked_at,
                   u.id, u.email, u.display_name, u.avatar_url, u.email_verified_at, u.disabled_at, u.last_login_at, u.created_at,
                   probity_memberships(u.id) as memberships
              from session_credentials c
              join sessions s on s.id = c.session_id
              join users u on u.id = s.user_id
             where c.hash = :hash
               and u.disabled_at is null
            """,
            hash=credential_hash,
        )
    if not rows:
        return None
    row = rows[0]
    live = LiveSession(session=_session_of(row), user=user_of(row), memberships=memberships_of(row["memberships"]))
    return CredentialForm(row["form"]), live


async def find_known_user_all_tenants(db: Database, email: str) -> KnownUser | None:
    """Return the account that somebody tries to sign in to."""
    async with db.system_connection() as tx:
        rows = await fetch_rows(
            tx,
            """
            select id, email, display_name, avatar_url, email_verified_at, disabled_at, last_login_at, created_at,
                   password_hash, failed_login_count, locked_until, probity_memberships(id) as memberships
              from users
             where email = :email
            """,
            email=email,
        )
    return _known_user(rows[0]) if rows else None


async def lock_known_user(tx: Tx, user_id: UserId) -> KnownUser | None:
    """Read the account again and hold its row lock until the transaction ends."""
    rows = await fetch_rows(
        tx,
        """
        select id, email, display_name, avatar_url, email_verified_at, disabled_at, last_login_at, created_at,
               password_hash, failed_login_count, locked_until, probity_memberships(id) as memberships
          from users
         where id = :user_id
           for update
        """,
        user_id=user_id,
    )
    return _known_user(rows[0]) if rows else None


def _known_user(row: Any) -> KnownUser:
    return KnownUser(
        user=user_of(row),
        password_hash=row["password_hash"],
        failed_login_count=row["failed_login_count"],
        locked_until=row["locked_until"],
        memberships=memberships_of(row["memberships"]),
    )


async def get_account(tx: Tx, user_id: UserId, active_org: OrgId | None) -> Account | None:
    rows = await fetch_rows(
        tx,
        """
        select id, email, display_name, avatar_url, email_verified_at, disabled_at, last_login_at, created_at,
               password_hash is not null as has_password, probity_memberships(id) as memberships
          from users
         where id = :user_id
        """,
        user_id=user_id,
    )
    if not rows:
        return None
    row = rows[0]
    return Account(
        user=user_of(row), has_password=row["has_password"], active_org=active_org, memberships=memberships_of(row["memberships"])
    )


async def save_failures(tx: Tx, user_id: UserId, count: int, locked_until: datetime | None) -> None:
    await execute(
        tx,
        "update users set failed_login_count = :count, locked_until = :locked_until where id = :user_id",
        user_id=user_id,
        count=count,
        locked_until=locked_until,
    )


async def save_sign_in(tx: Tx, user_id: UserId, now: datetime, upgraded_hash: str | None) -> None:
    """Note a successful sign-in: the failure count starts over, and an outdated hash is replaced."""
    await execute(
        tx,
        """
        update users
           set failed_login_count = 0, locked_until = null, last_login_at = :now,
               password_hash = coalesce(:upgraded_hash::text, password_hash)
         where id = :user_id
        """,
        user_id=user_id,
        now=now,
        upgraded_hash=upgraded_hash,
    )


async def insert_session(tx: Tx, session: Session, caller: Caller) -> None:
    await execute(
        tx,
        """
        insert into sessions (id, user_id, kind, active_org_id, created_at, last_used_at, expires_at, idle_expires_at, ip, user_agent)
        values (:id, :user_id, :kind, :active_org_id, :created_at, :last_used_at, :expires_at, :idle_expires_at, :ip, :user_agent)
        """,
        id=session.id,
        user_id=session.user_id,
        kind=session.kind.value,
        active_org_id=session.active_org_id,
        created_at=session.created_at,
        last_used_at=session.last_used_at,
        expires_at=session.expires_at,
        idle_expires_at=session.idle_expires_at,
        ip=caller.ip,
        user_agent=caller.user_agent,
    )


async def add_credential(tx: Tx, session_id: SessionId, form: CredentialForm, credential_hash: bytes) -> bool:
    """Give a session a credential; False when the same one exists already."""
    added = await execute(
        tx,
        """
        insert into session_credentials (hash, session_id, kind)
        values (:hash, :session_id, :kind)
            on conflict on constraint session_credentials_pkey do nothing
        """,
        hash=credential_hash,
        session_id=session_id,
        kind=form.value,
    )
    return added == 1


async def slide(tx: Tx, session_id: SessionId, *, now: datetime, seen_before: datetime, idle_expires_at: datetime) -> None:
    """Note a use, unless another request noted one after `seen_before`."""
    await execute(
        tx,
        """
        update sessions
           set last_used_at = :now, idle_expires_at = :idle_expires_at
         where id = :session_id
           and revoked_at is null
           and last_used_at < :seen_before
        """,
        session_id=session_id,
        now=now,
        seen_before=seen_before,
        idle_expires_at=idle_expires_at,
    )


async def revoke(tx: Tx, session_ids: Sequence[UUID], now: datetime) -> list[SessionId]:
    """Revoke sessions and return those that were not revoked before."""
    rows = await fetch_rows(
        tx,
        "update sessions set revoked_at = :now where id = any (:ids::uuid[]) and revoked_at is null returning id",
        ids=list(session_ids),
        now=now,
    )
    return [SessionId(row["id"]) for row in rows]


async def revoke_all(tx: Tx, user_id: UserId, now: datetime) -> int:
    """Revoke every session of a person and return how many there were."""
    return await execute(
        tx,
        "update sessions set revoked_at = :now where user_id = :user_id and revoked_at is null and expires_at > :now",
        user_id=user_id,
        now=now,
    )


async def delete_expired_all_tenants(db: Database, before: datetime, *, batch: int) -> int:
    """Delete sessions that ended before a moment, a batch at a time; return how many went."""
    async with db.system_connection() as tx:
        value = await fetch_value(
            tx,
            """
            with gone as (
                delete from sessions
                 where id in (select id from sessions where expires_at < :before order by expires_at limit :batch)
                returning id
            )
            select count(*) from gone
            """,
            before=before,
            batch=batch,
        )
    return int(value)
