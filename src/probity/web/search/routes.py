"""Search from anywhere: type a number or a name, press Enter."""

from typing import Annotated, Final

import msgspec
from litestar import Response, Router, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from probity.fleet.browse.models import AgentQuery
from probity.fleet.browse.service import FleetBrowser
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.groups import route_group
from probity.kernel.principal import Principal
from probity.runs.browse.models import RunQuery
from probity.runs.browse.service import RunBrowser
from probity.web.pages import Pages
from probity.web.shell import NAVIGATION

_EACH: Final = 6

Text = Annotated[str, QueryParameter(max_length=100)]


class Hit(msgspec.Struct, frozen=True):
    """One line of the answer: a state badge where the thing has a state, else an icon."""

    label: str
    href: str
    hint: str
    icon: str
    state: str = ""


def routes() -> list[Router]:
    return [route_group(Dialect.PAGES, "/", [search])]


@get("/search", authenticated=True, include_in_schema=False)
async def search(
    principal: NamedDependency[Principal],
    pages: NamedDependency[Pages],
    run_browser: NamedDependency[RunBrowser],
    fleet_browser: NamedDependency[FleetBrowser],
    q: Text = "",
) -> Response[str]:
    """Return pages, runs and agents that match, as the lines of the search dialog. Without a text: the pages and the latest runs."""
    text = q.strip()
    hits = [
        Hit(item.label, item.href, f"g {item.letter}", item.icon)
        for item in NAVIGATION
        if principal.has(item.permission) and text.lower() in item.label.lower()
    ]
    if principal.has("runs:read"):
        runs = await run_browser.list_runs(principal, RunQuery(text=text or None, limit=_EACH))
        hits += [Hit(run.name, f"/runs/RUN-{run.number}", f"RUN-{run.number}", "runs", run.state.value) for run in runs.runs]
    if text and principal.has("agent.list"):
        agents = await fleet_browser.list_agents(principal, AgentQuery(text=text, limit=_EACH))
        hits += [Hit(agent.name, f"/agents/{agent.id}", "Agent", "agents", fleet_browser.presence(agent).value) for agent in agents.agents]
    return pages.fragment("search/hits.html", hits=hits, text=text)
