"""The pages of agents and the search."""

import re

import httpx
import pytest

from probity.fleet.models import MintedAgent, NewAgent
from probity.fleet.service import FleetService
from probity.kernel.principal import Principal
from probity.runs.service import RunService
from tests.http_app import TestAuthenticator
from tests.runs.builders import a_run


@pytest.fixture
async def agent(fleet: FleetService, admin: Principal) -> MintedAgent:
    return await fleet.mint(admin, NewAgent(name="build-1", capabilities=("command",), tags=("gpu",)))


async def test_the_list_says_who_is_there_and_what_they_can_do(
    http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal, agent: MintedAgent
) -> None:
    reply = await http.get("/agents", headers=callers.headers(admin))

    assert reply.status_code == 200
    assert "build-1" in reply.text
    assert 'data-state="offline"' in reply.text
    assert '<span class="tag">gpu</span>' in reply.text


async def test_an_empty_fleet_offers_to_add_an_agent_and_the_token_admits_one(
    http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal
) -> None:
    empty = await http.get("/agents", headers=callers.headers(admin))
    added = await http.post("/agents", headers=callers.headers(admin))

    assert "Add an agent" in empty.text
    command = re.search(r"probity agent enroll --server http://probity.test --token ([\w-]+)", added.text)
    assert command is not None
    facts = {"enrollment_token": command[1], "agent_name": "build-9", "agent_version": "0.1.0"}
    assert (await http.post("/api/v1/agents/enroll", json=facts)).status_code == 201
    assert (await http.post("/api/v1/agents/enroll", json=facts | {"agent_name": "build-10"})).status_code >= 400


async def test_an_agent_has_its_page_and_can_be_revoked_there(
    http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal, agent: MintedAgent
) -> None:
    before = await http.get(f"/agents/{agent.id}", headers=callers.headers(admin))
    reply = await http.post(f"/agents/{agent.id}/revoke", headers=callers.headers(admin))
    after = await http.get(f"/agents/{agent.id}", headers=callers.headers(admin))

    assert "Revoke build-1?" in before.text
    assert reply.status_code == 303
    assert 'data-state="revoked"' in after.text
    assert "Revoke build-1?" not in after.text


async def test_another_organizations_agent_is_not_found(
    http: httpx.AsyncClient, callers: TestAuthenticator, outsider: Principal, agent: MintedAgent
) -> None:
    assert (await http.get(f"/agents/{agent.id}", headers=callers.headers(outsider))).status_code == 404
    assert (await http.post(f"/agents/{agent.id}/revoke", headers=callers.headers(outsider))).status_code == 404


async def test_search_finds_pages_runs_by_number_and_name_and_agents(
    http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal, agent: MintedAgent, runs: RunService
) -> None:
    run = await runs.create(admin, a_run(name="signing suite"))

    async def found(text: str) -> str:
        return (await http.get("/search", params={"q": text}, headers=callers.headers(admin))).text

    assert f'href="/runs/{run.label}"' in await found("sign")
    assert f'href="/runs/{run.label}"' in await found(run.label.lower())
    assert f'href="/agents/{agent.id}"' in await found("build")
    assert 'href="/agents"' in await found("agen")
    assert "Nothing found" in await found("<b>")
    assert "<b>" not in await found("<b>")
