"""SQL of the trail."""

from uuid import UUID

from probity.kernel.db import Tx, execute


async def insert_event(
    tx: Tx,
    *,
    event_id: UUID,
    org_id: UUID | None,
    actor: str,
    action: str,
    resource: str,
    status: str,
    correlation_id: UUID,
    metadata: dict[str, object],
) -> None:
    await execute(
        tx,
        """
        insert into audit_events (id, org_id, actor, action, resource, status, correlation_id, metadata)
        values (:id, :org_id, :actor, :action, :resource, :status, :correlation_id, :metadata)
        """,
        id=event_id,
        org_id=org_id,
        actor=actor,
        action=action,
        resource=resource,
        status=status,
        correlation_id=correlation_id,
        metadata=metadata,
    )
