"""A protocol server and an agent program per test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.programs import AgentProcess
from tests.protocol_server import ProtocolServer, protocol_server


@pytest.fixture
def server() -> Iterator[ProtocolServer]:
    with protocol_server() as running:
        yield running


@pytest.fixture
def idle_agent(server: ProtocolServer, tmp_path: Path) -> Iterator[AgentProcess]:
    agent = AgentProcess(server, tmp_path / "agent")
    try:
        yield agent
    finally:
        agent.end()


@pytest.fixture
def agent(idle_agent: AgentProcess) -> AgentProcess:
    idle_agent.start()
    return idle_agent
