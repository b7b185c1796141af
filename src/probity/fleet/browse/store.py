"""SQL of the list of agents. Revoked ones are apart: the index of the names holds only the others."""

from datetime import datetime
from typing import Final, LiteralString

from probity.fleet.browse.models import COUNT_LIMIT, AgentQuery, Presence
from probity.fleet.models import Agent
from probity.kernel.db import Tx, containing, fetch_all, fetch_value
from probity.kernel.principal import OrgId

_COLUMNS: Final[LiteralString] = """
    id, org_id, name, scope, status, capabilities, tags, hostname, os, arch, agent_version, last_status, last_seen_at, revoked_at, created_at
"""


def _narrowed(query: AgentQuery) -> LiteralString:
    where: LiteralString = "org_id = :org_id"
    match query.presence:
        case None:
            where += " and revoked_at is null"
        case Presence.ONLINE:
            where += " and revoked_at is null and last_seen_at > :online_since"
        case Presence.OFFLINE:
            where += " and revoked_at is null and (last_seen_at is null or last_seen_at <= :online_since)"
        case Presence.REVOKED:
            where += " and revoked_at is not null"
    if query.text is not None:
        where += " and (name ilike :pattern or hostname ilike :pattern or :text = any (tags) or :text = any (capabilities))"
    return where


def _params(org_id: OrgId, query: AgentQuery, online_since: datetime) -> dict[str, object]:
    return {
        "org_id": org_id,
        "online_since": online_since,
        "text": query.text,
        "pattern": None if query.text is None else containing(query.text),
    }


async def list_agents(tx: Tx, org_id: OrgId, query: AgentQuery, *, online_since: datetime) -> list[Agent]:
    """Return one agent more than the page holds when another page follows."""
    where = _narrowed(query)
    if query.after is not None:
        where += " and (name, id) > (:after_name, :after_id)"
    return await fetch_all(
        tx,
        Agent,
        "select " + _COLUMNS + " from agents where " + where + " order by name, id limit :limit + 1",
        after_name=query.after[0] if query.after else None,
        after_id=query.after[1] if query.after else None,
        limit=query.limit,
        **_params(org_id, query, online_since),
    )


async def count_agents(tx: Tx, org_id: OrgId, query: AgentQuery, *, online_since: datetime) -> int:
    count: int = await fetch_value(
        tx,
        "select count(*) from (select 1 from agents where " + _narrowed(query) + " limit :at_most) as capped",
        at_most=COUNT_LIMIT,
        **_params(org_id, query, online_since),
    )
    return count
