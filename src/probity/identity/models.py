"""The vocabulary of identity."""

from datetime import datetime
from typing import NewType
from uuid import UUID

import msgspec

from probity.kernel.principal import OrgId, UserId

RoleId = NewType("RoleId", UUID)


class Organization(msgspec.Struct, frozen=True, kw_only=True):
    id: OrgId
    slug: str
    name: str
    created_at: datetime


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A person; `email` is trimmed and lower-case."""

    id: UserId
    email: str
    display_name: str
    avatar_url: str | None
    email_verified_at: datetime | None
    disabled_at: datetime | None
    last_login_at: datetime | None
    created_at: datetime


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A person in one organization, with the names of the roles that hold everywhere in it."""

    user: User
    is_owner: bool
    roles: tuple[str, ...]
    joined_at: datetime


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """A role as somebody holds it. An empty scope means everywhere in the organization."""

    role: str
    permissions: tuple[str, ...]
    scope: dict[str, object]


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """One organization of one person, as sign-in and every request see it."""

    org_id: OrgId
    org_name: str
    org_slug: str
    is_owner: bool
    joined_at: datetime
    grants: tuple[Grant, ...]
