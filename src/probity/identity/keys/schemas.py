"""What keys look like on the wire. Source: validation.md §5.12, §6.10."""

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from probity.identity.keys.models import ApiKey
from probity.identity.roles import KeyScope
from probity.kernel.clock import rfc3339_millis
from probity.kernel.errors import FieldError
from probity.kernel.http.failures import InvalidInput
from probity.kernel.secret import Secret


class NewKeyBody(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    scope: KeyScope
    expires_at: Annotated[str, msgspec.Meta(max_length=40, extra_json_schema={"format": "date-time"})] | msgspec.UnsetType = msgspec.UNSET

    def expiry(self) -> datetime | None:
        """Return when the key ends.

        Raises:
            InvalidInput: not an ISO date and time in UTC, spelled with `Z`.
        """
        if self.expires_at is msgspec.UNSET:
            return None
        try:
            if not self.expires_at.endswith("Z") or "T" not in self.expires_at:
                raise ValueError
            return datetime.fromisoformat(self.expires_at)
        except ValueError:
            raise InvalidInput("the body has wrong fields", fields=(FieldError("expires_at", "Invalid ISO datetime"),)) from None


class KeyOut(msgspec.Struct):
    id: str
    name: str
    key_prefix: str
    scope: KeyScope
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None

    @classmethod
    def of(cls, key: ApiKey) -> "KeyOut":
        return cls(**_fields(key))


class NewKeyOut(KeyOut):
    """With the key itself, this once."""

    key: str

    @classmethod
    def made(cls, key: ApiKey, text: Secret) -> "NewKeyOut":
        return cls(**_fields(key), key=text.reveal())


class OneNewKey(msgspec.Struct):
    success: bool
    data: NewKeyOut


class ManyKeys(msgspec.Struct):
    success: bool
    data: list[KeyOut]


class Done(msgspec.Struct):
    success: bool


def _fields(key: ApiKey) -> dict[str, Any]:
    return {
        "id": str(key.id),
        "name": key.name,
        "key_prefix": key.key_prefix,
        "scope": key.scope,
        "created_at": _sql_time(key.created_at),
        "expires_at": None if key.expires_at is None else rfc3339_millis(key.expires_at),
        "last_used_at": None if key.last_used_at is None else _sql_time(key.last_used_at),
        "revoked_at": None if key.revoked_at is None else _sql_time(key.revoked_at),
    }


def _sql_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
