"""What the keys page shows. Pure."""

from datetime import datetime

import msgspec

from probity.identity.keys.models import ApiKey


class KeyRow(msgspec.Struct, frozen=True):
    """`prefix` is the part of the key that tells it from others; the key itself is not known any more."""

    id: str
    name: str
    prefix: str
    scope: str
    state: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


def row_of(key: ApiKey, now: datetime) -> KeyRow:
    is_expired = key.expires_at is not None and key.expires_at <= now
    return KeyRow(
        id=str(key.id),
        name=key.name,
        prefix=f"{key.key_prefix}…",
        scope=key.scope.value,
        state="revoked" if key.revoked_at else "expired" if is_expired else "active",
        created_at=key.created_at,
        expires_at=key.expires_at,
        last_used_at=key.last_used_at,
    )
