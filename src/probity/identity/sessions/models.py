"""Sessions and the credentials that open them."""

from datetime import datetime
from enum import StrEnum
from typing import NewType
from uuid import UUID

import msgspec

from probity.identity.models import Membership, User
from probity.kernel.principal import OrgId, UserId
from probity.kernel.secret import Secret

SessionId = NewType("SessionId", UUID)


class SessionKind(StrEnum):
    """Where somebody signed in: our own pages, the shared root, or a pinned contract."""

    UI = "ui"
    ROOT = "root"
    BRIDGE = "bridge"
    SENTRI = "sentri"


class Caller(msgspec.Struct, frozen=True):
    """What a session remembers about where it was opened."""

    ip: str | None = None
    user_agent: str | None = None


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One sign-in. `idle_expires_at` slides with use of the cookie and never passes `expires_at`; signed tokens live to the latter."""

    id: SessionId
    user_id: UserId
    kind: SessionKind
    active_org_id: OrgId | None
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    idle_expires_at: datetime
    mfa_at: datetime | None
    mfa_pending: bool
    revoked_at: datetime | None


class SignedIn(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a sign-in: the session and everything that a client may be handed for it. Shown once, never stored."""

    session: Session
    user: User
    memberships: tuple[Membership, ...]
    cookie: Secret
    bridge_token: Secret
    bridge_expires_at: datetime
    sentri_token: Secret


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody as `me` shows them."""

    user: User
    has_password: bool
    active_org: OrgId | None
    memberships: tuple[Membership, ...]


class KnownUser(msgspec.Struct, frozen=True, kw_only=True):
    """What sign-in needs to decide about an account."""

    user: User
    password_hash: str | None
    failed_login_count: int
    locked_until: datetime | None
    memberships: tuple[Membership, ...]


class LiveSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session as a request finds it by its credential, with everything a `Principal` is made of."""

    session: Session
    user: User
    memberships: tuple[Membership, ...]
