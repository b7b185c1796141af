"""Reading the fleet for the pages."""

from datetime import datetime

from probity.fleet.browse import store
from probity.fleet.browse.models import ONLINE_WITHIN, AgentPage, AgentQuery, Presence
from probity.fleet.models import Agent
from probity.kernel.clock import Clock
from probity.kernel.db import Database
from probity.kernel.principal import Principal


class FleetBrowser:
    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def list_agents(self, principal: Principal, query: AgentQuery) -> AgentPage:
        """Return a page of agents, by name, and how many there are in all."""
        principal.require("agent.list")
        online_since = self._clock.now() - ONLINE_WITHIN
        async with self._db.transaction(principal) as tx:
            found = await store.list_agents(tx, principal.org_id, query, online_since=online_since)
            is_all = query.after is None and len(found) <= query.limit
            count = len(found) if is_all else await store.count_agents(tx, principal.org_id, query, online_since=online_since)
        agents = found[: query.limit]
        return AgentPage(agents, count, (agents[-1].name, agents[-1].id) if len(found) > query.limit else None)

    def presence(self, agent: Agent) -> Presence:
        return presence_of(agent, self._clock.now())


def presence_of(agent: Agent, now: datetime) -> Presence:
    """Say whether an agent is there: its last sign of life is young enough."""
    if agent.revoked_at is not None:
        return Presence.REVOKED
    if agent.last_seen_at is not None and now - agent.last_seen_at < ONLINE_WITHIN:
        return Presence.ONLINE
    return Presence.OFFLINE
