"""From the fleet to what the agents page shows. Pure."""

from collections.abc import Iterable, Sequence

from probity.fleet.browse.models import Presence
from probity.fleet.models import Agent
from probity.runs.browse.models import RunningRun
from probity.web.agents.views import AgentRow


def row_of(agent: Agent, presence: Presence, running: Iterable[RunningRun]) -> AgentRow:
    machine = " ".join(part for part in (agent.os, agent.arch) if part)
    return AgentRow(
        key=str(agent.id),
        name=agent.name,
        href=f"/agents/{agent.id}",
        state=presence.value,
        platform=", ".join(part for part in (agent.hostname if agent.hostname != agent.name else None, machine) if part),
        labels=labels_of(agent),
        jobs=[f"RUN-{run.number}" for run in running if run.agent_id == agent.id],
        version=agent.agent_version or "",
        last_seen_at=agent.last_seen_at,
    )


def labels_of(agent: Agent) -> Sequence[str]:
    """Return what an agent can do and how it is tagged, each word once."""
    return list(dict.fromkeys((*agent.capabilities, *agent.tags)))
