"""The trail on the wire."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from probity.audit.errors import InvalidFilter
from probity.audit.models import AuditFilter, Verification
from probity.audit.service import ShownEvent

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1000

_UUID: Final = re.compile(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_RFC3339: Final = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?(Z|[+-]\d{2}:\d{2})", re.ASCII)
_NUMBER: Final = re.compile(r"\+?\d{1,18}", re.ASCII)


class AuditEventOut(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event. Source: secrets.md §6.13; `metadata` is left out when it is empty."""

    id: UUID
    actor: str
    actor_display: str
    action: str
    resource: str
    status: str
    correlation_id: UUID
    occurred_at: str
    metadata: msgspec.Raw | None = None

    @classmethod
    def of(cls, shown: ShownEvent) -> "AuditEventOut":
        event = shown.event
        return cls(
            id=event.id,
            actor=event.actor,
            actor_display=shown.actor_display,
            action=event.action,
            resource=event.resource,
            status=event.status,
            correlation_id=event.correlation_id,
            occurred_at=rfc3339(event.occurred_at),
            metadata=None if event.metadata == "{}" else msgspec.Raw(event.metadata.encode()),
        )


class BreakOut(msgspec.Struct, frozen=True):
    """The first thing that is wrong with a trail."""

    reason: str
    seq: int | None
    event_id: UUID | None


class VerificationOut(msgspec.Struct, frozen=True):
    """Whether a trail is whole. `chain_hash` (hex) is the hash of its last link; `checkpoints` were held against it."""

    org_id: UUID
    verified: bool
    events: int
    first_seq: int
    last_seq: int
    chain_hash: str
    checkpoints: int
    broken: BreakOut | None

    @classmethod
    def of(cls, found: Verification) -> "VerificationOut":
        broken = found.broken
        return cls(
            org_id=found.org_id,
            verified=found.verified,
            events=found.events,
            first_seq=found.first_seq,
            last_seq=found.last_seq,
            chain_hash=found.chain_hash,
            checkpoints=found.checkpoints,
            broken=BreakOut(broken.reason, broken.seq, broken.event_id) if broken else None,
        )


def read_filter(query: Mapping[str, str | None]) -> AuditFilter:
    """Read the parameters of a listing; an empty one counts as absent.

    Raises:
        InvalidFilter: in the words of secrets.md §6.13.
    """
    given = {name: value for name, value in query.items() if value}
    return AuditFilter(
        actor=given.get("actor"),
        action=given.get("action"),
        resource=given.get("resource"),
        correlation_id=_correlation_id(given.get("correlation_id")),
        since=_moment("since", given.get("since")),
        until=_moment("until", given.get("until")),
        limit=_limit(given.get("limit")),
    )


def rfc3339(moment: datetime) -> str:
    """Return RFC 3339 in UTC with as many digits of the fraction as are not trailing zeros. Source: secrets.md §3.7."""
    utc = moment.astimezone(UTC)
    fraction = f".{utc.microsecond:06d}".rstrip("0").rstrip(".")
    return f"{utc:%Y-%m-%dT%H:%M:%S}{fraction}Z"


def _correlation_id(text: str | None) -> UUID | None:
    if text is None:
        return None
    if not _UUID.fullmatch(text):
        raise InvalidFilter("correlation_id: invalid uuid")
    return UUID(text)


def _moment(name: str, text: str | None) -> datetime | None:
    """Read RFC 3339 with up to nanoseconds. PostgreSQL keeps microseconds, so a finer moment counts as the next one, which changes neither
    `>=` nor `<`."""
    if text is None:
        return None
    try:
        match = _RFC3339.fullmatch(text)
        if match is None:
            raise ValueError
        seconds, fraction, zone = match.groups()
        nanoseconds = int((fraction or "").ljust(9, "0"))
        return datetime.fromisoformat(seconds + zone).astimezone(UTC) + timedelta(microseconds=-(-nanoseconds // 1000))
    except (ValueError, OverflowError):
        raise InvalidFilter(f"{name}: expected RFC3339 timestamp") from None


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT_DEFAULT
    if not _NUMBER.fullmatch(text):
        raise InvalidFilter("limit must be a non-negative integer")
    return min(int(text) or LIMIT_DEFAULT, LIMIT_MAX)
