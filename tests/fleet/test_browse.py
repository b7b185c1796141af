"""The list of agents: by name, by presence, page by page."""

import pytest

from probity.fleet.browse.models import ONLINE_WITHIN, AgentQuery, Presence
from probity.fleet.browse.service import FleetBrowser
from probity.fleet.models import Heartbeat
from probity.fleet.service import FleetService
from probity.kernel.db import Database
from probity.kernel.principal import Principal
from tests.fakes import FakeClock
from tests.fleet.conftest import an_agent


@pytest.fixture
def browser(db: Database, clock: FakeClock) -> FleetBrowser:
    return FleetBrowser(db, clock)


async def names(browser: FleetBrowser, admin: Principal, **narrowed: object) -> list[str]:
    return [agent.name for agent in (await browser.list_agents(admin, AgentQuery(**narrowed))).agents]  # type: ignore[arg-type]


async def test_agents_come_by_name_page_by_page(fleet: FleetService, browser: FleetBrowser, admin: Principal) -> None:
    for name in ("c", "a", "d", "b"):
        await an_agent(fleet, admin, name)

    first = await browser.list_agents(admin, AgentQuery(limit=3))
    second = await browser.list_agents(admin, AgentQuery(limit=3, after=first.next_after))

    assert [agent.name for agent in first.agents + second.agents] == ["a", "b", "c", "d"]
    assert first.count == 4
    assert second.next_after is None


async def test_an_agent_is_online_while_its_last_sign_of_life_is_young(
    fleet: FleetService, browser: FleetBrowser, admin: Principal, clock: FakeClock
) -> None:
    credential = await an_agent(fleet, admin, "alive")
    await an_agent(fleet, admin, "never")
    await fleet.heartbeat(credential, Heartbeat(), address="192.0.2.1")
    assert await names(browser, admin, presence=Presence.ONLINE) == ["alive"]

    clock.advance(ONLINE_WITHIN.total_seconds() + 1)

    assert await names(browser, admin, presence=Presence.ONLINE) == []
    assert await names(browser, admin, presence=Presence.OFFLINE) == ["alive", "never"]


async def test_revoked_agents_stand_apart(fleet: FleetService, browser: FleetBrowser, admin: Principal) -> None:
    gone = await an_agent(fleet, admin, "gone")
    await an_agent(fleet, admin, "here")
    await fleet.revoke(admin, gone.agent_id)

    assert await names(browser, admin) == ["here"]
    assert await names(browser, admin, presence=Presence.REVOKED) == ["gone"]


async def test_agents_are_found_by_part_of_their_name_and_by_a_whole_tag(
    fleet: FleetService, browser: FleetBrowser, admin: Principal, outsider: Principal
) -> None:
    await an_agent(fleet, admin, "build-1", tags=("gpu",), capabilities=("command",))
    await an_agent(fleet, admin, "100%")

    assert await names(browser, admin, text="UILD") == ["build-1"]
    assert await names(browser, admin, text="gpu") == ["build-1"]
    assert await names(browser, admin, text="command") == ["build-1"]
    assert await names(browser, admin, text="%") == ["100%"]
    assert await names(browser, outsider, text="build") == []
