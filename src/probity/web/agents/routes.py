"""Pages of agents."""

from typing import Annotated, Final

from litestar import Response, Router, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Redirect

from probity.fleet.browse.models import AgentPage as FoundAgents
from probity.fleet.browse.models import AgentQuery, Presence
from probity.fleet.browse.service import FleetBrowser
from probity.fleet.service import FleetService
from probity.kernel.errors import Invalid
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.exchange import origin_of
from probity.kernel.http.groups import route_group
from probity.kernel.ids import parse_id
from probity.kernel.principal import AgentId, Principal
from probity.runs.browse.models import RunningRun, RunQuery
from probity.runs.browse.service import RunBrowser
from probity.web.agents import present
from probity.web.agents.views import AgentsPage
from probity.web.pages import PageRequest, Pages
from probity.web.query import ListQuery, state_choices
from probity.web.runs.present import row_of as run_row_of

_STATES: Final = (("", "All"), ("online", "Online"), ("offline", "Offline"), ("revoked", "Revoked"))
_RECENT: Final = 20
_TOKEN_TTL_S: Final = 3600

# `state` as an argument is Litestar's own.
StateName = Annotated[str, QueryParameter(name="state", max_length=20)]
Text = Annotated[str, QueryParameter(max_length=200)]


def routes() -> list[Router]:
    return [route_group(Dialect.PAGES, "/agents", [agents, add_agent, agent, revoke_agent])]


@get("/", permission="agent.list", include_in_schema=False)
async def agents(
    request: PageRequest,
    principal: NamedDependency[Principal],
    pages: NamedDependency[Pages],
    fleet_browser: NamedDependency[FleetBrowser],
    run_browser: NamedDependency[RunBrowser],
    wanted: StateName = "",
    q: Text = "",
    cursor: FromQuery[str] = "",
) -> Response[str]:
    """Show the agents: who is there and what they run."""
    query = ListQuery("/agents", state=wanted if wanted in set(Presence) else "", text=q.strip(), cursor=cursor)
    found = await fleet_browser.list_agents(principal, _agent_query(query))
    running: list[RunningRun] = []
    if found.agents and principal.has("runs:read"):
        running = await run_browser.running_on(principal, [agent.id for agent in found.agents])
    page = _agents_page(query, found, running, fleet_browser, principal)
    return pages.page(request, principal, "agents/list.html", title="Agents", active="agents", page=page)


@post("/", status_code=200, permission="agent.mint", include_in_schema=False)
async def add_agent(
    request: PageRequest,
    principal: NamedDependency[Principal],
    pages: NamedDependency[Pages],
    fleet: NamedDependency[FleetService],
) -> Response[str]:
    """Make a token that admits one machine, and show the commands that use it, this once."""
    token = await fleet.create_token(principal, ttl_s=_TOKEN_TTL_S, max_uses=1)
    return pages.page(
        request,
        principal,
        "agents/add.html",
        title="Add an agent",
        active="agents",
        token=token.secret.reveal(),
        expires_at=token.expires_at,
        server=origin_of(request),
    )


@get("/{agent_id:str}", permission="agent.list", include_in_schema=False)
async def agent(
    agent_id: FromPath[str],
    request: PageRequest,
    principal: NamedDependency[Principal],
    pages: NamedDependency[Pages],
    fleet: NamedDependency[FleetService],
    fleet_browser: NamedDependency[FleetBrowser],
    run_browser: NamedDependency[RunBrowser],
) -> Response[str]:
    """Show one agent: its facts and what it ran last."""
    found = await fleet.get_agent(principal, parse_id(AgentId, agent_id))
    runs = []
    if principal.has("runs:read"):
        runs = (await run_browser.list_runs(principal, RunQuery(agent_id=found.id, limit=_RECENT))).runs
    return pages.page(
        request,
        principal,
        "agents/agent.html",
        title=found.name,
        active="agents",
        agent=found,
        row=present.row_of(found, fleet_browser.presence(found), ()),
        runs=[run_row_of(run) for run in runs],
        may_revoke=principal.has("agent.revoke") and found.revoked_at is None,
    )


@post("/{agent_id:str}/revoke", permission="agent.revoke", include_in_schema=False)
async def revoke_agent(agent_id: FromPath[str], principal: NamedDependency[Principal], fleet: NamedDependency[FleetService]) -> Redirect:
    """Revoke an agent's credential and go back to it."""
    await fleet.revoke(principal, parse_id(AgentId, agent_id))
    return Redirect(f"/agents/{agent_id}", status_code=303)


def _agent_query(query: ListQuery) -> AgentQuery:
    return AgentQuery(presence=Presence(query.state) if query.state else None, text=query.text or None, after=_cursor(query.cursor))


def _cursor(text: str) -> tuple[str, AgentId] | None:
    """Read where a page starts (`<id>.<name>`); a broken address shows the first page rather than an error."""
    agent_id, _, name = text.partition(".")
    try:
        return (name, parse_id(AgentId, agent_id)) if name else None
    except Invalid:
        return None


def _agents_page(
    query: ListQuery, found: FoundAgents, running: list[RunningRun], browser: FleetBrowser, principal: Principal
) -> AgentsPage:
    return AgentsPage(
        query=query,
        rows=[present.row_of(agent, browser.presence(agent), running) for agent in found.agents],
        count=found.count,
        states=state_choices(query, _STATES),
        next_href=query.href(cursor=f"{found.next_after[1]}.{found.next_after[0]}") if found.next_after else "",
        may_add=principal.has("agent.mint"),
    )
