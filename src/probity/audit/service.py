"""Recording: every state change calls `record` in its own transaction."""

from collections.abc import Mapping
from typing import Final
from uuid import UUID, uuid4

import msgspec

from probity.audit import store
from probity.audit.errors import UnsafeMetadata
from probity.audit.models import Action, AuditEventId, Status
from probity.kernel.db import Tx
from probity.kernel.ids import new_id
from probity.kernel.principal import OrgId, Principal

_METADATA_MAX_BYTES: Final = 16 * 1024
_RESOURCE_MAX: Final = 500


async def record(
    tx: Tx,
    principal: Principal,
    action: Action,
    resource: str,
    *,
    org_id: OrgId | None = None,
    status: Status = Status.SUCCESS,
    correlation_id: UUID | None = None,
    metadata: Mapping[str, object] | None = None,
) -> AuditEventId:
    """Write one event in the transaction of the action; if it cannot be written, the action fails with it.

    Args:
        resource: `<kind>:<id>`.
        org_id: whose trail; the principal's active organization when not given. An event without either belongs to the installation
            and needs a transaction of the system role.
        correlation_id: what ties the events of one request chain together; a random one when not given.
        metadata: facts, JSON-encodable, at most 16 KiB. Never a secret value: a `Secret` does not encode, so the action fails.

    Raises:
        UnsafeMetadata: the metadata is too large or holds something that is not plain data.
    """
    event_id = AuditEventId(new_id())
    await store.insert_event(
        tx,
        event_id=event_id,
        org_id=org_id or principal.active_org,
        actor=principal.actor,
        action=Action(action).value,
        resource=_storable(resource)[:_RESOURCE_MAX],
        status=Status(status).value,
        correlation_id=correlation_id or uuid4(),
        metadata=_plain(metadata or {}),
    )
    return event_id


def _plain(metadata: Mapping[str, object]) -> dict[str, object]:
    """Return the metadata as JSON types, without the one character that PostgreSQL cannot store."""
    try:
        encoded = msgspec.json.encode(metadata)
    except (TypeError, ValueError) as error:
        raise UnsafeMetadata("audit metadata must be plain data") from error
    if len(encoded) > _METADATA_MAX_BYTES:
        raise UnsafeMetadata("audit metadata is too large", size_bytes=len(encoded), limit_bytes=_METADATA_MAX_BYTES)
    plain: dict[str, object] = msgspec.json.decode(encoded)
    return {_storable(key): _without_nul(value) for key, value in plain.items()} if b"\\u0000" in encoded else plain


def _without_nul(value: object) -> object:
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    if isinstance(value, dict):
        return {_storable(key): _without_nul(item) for key, item in value.items()}
    return value


def _storable(text: str) -> str:
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")
