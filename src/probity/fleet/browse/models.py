"""What a list of agents is narrowed to, and what it returns."""

from datetime import timedelta
from enum import StrEnum
from typing import Final

import msgspec

from probity.fleet.models import Agent
from probity.kernel.principal import AgentId

COUNT_LIMIT: Final = 10_000
# Agents give a sign of life every 30 s or less; two may be lost on the way.
ONLINE_WITHIN: Final = timedelta(seconds=90)


class Presence(StrEnum):
    ONLINE = "online"
    OFFLINE = "offline"
    REVOKED = "revoked"


class AgentQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Without a presence: everything but revoked agents. `after` is the last name and id of the page before."""

    presence: Presence | None = None
    text: str | None = None
    after: tuple[str, AgentId] | None = None
    limit: int = 50


class AgentPage(msgspec.Struct, frozen=True):
    """A page of agents by name. `count` is exact up to `COUNT_LIMIT`."""

    agents: list[Agent]
    count: int
    next_after: tuple[str, AgentId] | None
