"""Keys of programs."""

from datetime import datetime
from typing import NewType
from uuid import UUID

import msgspec

from probity.identity.models import Membership
from probity.identity.roles import KeyScope as KeyScope
from probity.kernel.principal import OrgId, UserId

KeyId = NewType("KeyId", UUID)


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as its organization sees it; the key itself is shown once, when it is made."""

    id: KeyId
    org_id: OrgId
    user_id: UserId
    name: str
    key_prefix: str
    scope: KeyScope
    permissions: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class LiveKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as a request finds it, with what its maker holds at this moment."""

    key: ApiKey
    maker: tuple[Membership, ...]
