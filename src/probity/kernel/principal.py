"""Who is asking, and what they may do."""

from datetime import datetime
from enum import StrEnum
from typing import Final, NewType
from uuid import UUID

import msgspec

from probity.kernel.errors import Denied, Unauthenticated

OrgId = NewType("OrgId", UUID)
UserId = NewType("UserId", UUID)
AgentId = NewType("AgentId", UUID)


class PrincipalKind(StrEnum):
    ANONYMOUS = "anonymous"
    USER = "user"
    API_KEY = "api_key"
    AGENT = "agent"
    CRON = "cron"
    SYSTEM = "system"


class CredentialKind(StrEnum):
    NONE = "none"
    SESSION_COOKIE = "session_cookie"
    BEARER_JWT = "bearer_jwt"
    API_KEY = "api_key"
    AGENT_SECRET = "agent_secret"
    CRON_SECRET = "cron_secret"
    SYSTEM = "system"


class PermissionMissing(Denied):
    code = "permission_missing"

    def __init__(self, permission: str) -> None:
        super().__init__(f'missing permission "{permission}"', permission=permission)


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The one answer to "who is this request": made by an authenticator, read by every service.

    `org_ids` are all organizations whose rows the caller may see (the row-level security set); `active_org` is the one that this
    request acts in. `actor` is the spelling used by the audit trail. `cookie` names the cookie that carried the session, if any.
    """

    kind: PrincipalKind
    actor: str
    display: str = ""
    org_ids: tuple[OrgId, ...] = ()
    active_org: OrgId | None = None
    permissions: frozenset[str] = frozenset()
    credential: CredentialKind = CredentialKind.NONE
    role: str | None = None
    user_id: UserId | None = None
    agent_id: AgentId | None = None
    session_id: UUID | None = None
    cookie: str | None = None
    mfa_at: datetime | None = None

    @property
    def is_anonymous(self) -> bool:
        return self.kind is PrincipalKind.ANONYMOUS

    @property
    def org_id(self) -> OrgId:
        """The organization this request acts in.

        Raises:
            Unauthenticated: nobody is signed in.
            Denied: the caller belongs to no organization.
        """
        if self.active_org is not None:
            return self.active_org
        if self.is_anonymous:
            raise Unauthenticated("authentication required")
        raise Denied("you are not a member of any organization")

    def has(self, permission: str) -> bool:
        return permission in self.permissions

    def require(self, permission: str) -> None:
        """Pass when the caller holds `permission`.

        Raises:
            Unauthenticated: nobody is signed in.
            PermissionMissing: somebody is, without this permission.
        """
        if permission in self.permissions:
            return
        if self.is_anonymous:
            raise Unauthenticated("authentication required")
        raise PermissionMissing(permission)


ANONYMOUS: Final = Principal(kind=PrincipalKind.ANONYMOUS, actor="anonymous", display="anonymous")


def system_principal(*org_ids: OrgId) -> Principal:
    """Return the server itself, acting in `org_ids` (the first is the active one)."""
    return Principal(
        kind=PrincipalKind.SYSTEM,
        actor="system",
        display="System",
        org_ids=org_ids,
        active_org=org_ids[0] if org_ids else None,
        credential=CredentialKind.SYSTEM,
    )
