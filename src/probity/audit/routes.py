"""HTTP of the trail: the contract's listing, and our own export and verification."""

from typing import Final

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromQuery
from litestar.response import Stream
from litestar.types import ControllerRouterHandler

from probity.audit.schemas import AuditEventOut, VerificationOut, read_filter
from probity.audit.service import AuditService
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.groups import route_group
from probity.kernel.limits import Policy
from probity.kernel.principal import Principal

# Both read a whole trail.
_EXPORTS: Final = Policy("audit:export", limit=10, window_s=60)
_VERIFICATIONS: Final = Policy("audit:verification", limit=10, window_s=60)


@get("/audit-events", permission="audit.read")
async def list_audit_events(
    principal: NamedDependency[Principal],
    audit: NamedDependency[AuditService],
    actor: FromQuery[str | None] = None,
    action: FromQuery[str | None] = None,
    resource: FromQuery[str | None] = None,
    correlation_id: FromQuery[str | None] = None,
    since: FromQuery[str | None] = None,
    until: FromQuery[str | None] = None,
    limit: FromQuery[str | None] = None,
) -> list[AuditEventOut]:
    """List events, newest first: exact matches, `since` (inclusive) to `until` (exclusive), at most 1000.

    Page backwards with `until` set to the oldest `occurred_at`.
    """
    query = {
        "actor": actor,
        "action": action,
        "resource": resource,
        "correlation_id": correlation_id,
        "since": since,
        "until": until,
        "limit": limit,
    }
    return [AuditEventOut.of(shown) for shown in await audit.list_events(principal, read_filter(query))]


@get("/audit-events/export", permission="audit.read", limits=(_EXPORTS,))
async def export_audit_events(principal: NamedDependency[Principal], audit: NamedDependency[AuditService]) -> Stream:
    """Download the whole trail as NDJSON that proves itself; check it with `probity audit verify --file`."""
    name = f"probity-audit-{principal.org_id}.ndjson"
    return Stream(
        await audit.export(principal),
        media_type="application/x-ndjson",
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
    )


@get("/audit-events/verification", permission="audit.read", limits=(_VERIFICATIONS,))
async def verify_audit_events(principal: NamedDependency[Principal], audit: NamedDependency[AuditService]) -> VerificationOut:
    """Check that no event was changed, removed or moved; the first broken one is named."""
    return VerificationOut.of(await audit.verify(principal))


def routes() -> list[ControllerRouterHandler]:
    return [
        route_group(Dialect.BRIDGE, "/api/v1", [list_audit_events], tags=["Audit"]),
        route_group(Dialect.OWN, "/api/v1", [export_audit_events, verify_audit_events], tags=["Audit"]),
    ]
