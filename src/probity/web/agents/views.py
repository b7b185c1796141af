"""What the agents page shows, already decided."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from probity.web.query import Choice, ListQuery


class AgentRow(msgspec.Struct, frozen=True):
    """`state` is what people ask first: online, stale (silent for minutes), offline, revoked. `jobs` says what it runs now."""

    key: str
    name: str
    href: str
    state: str
    platform: str
    labels: Sequence[str]
    jobs: Sequence[str]
    version: str
    last_seen_at: datetime | None


class AgentsPage(msgspec.Struct, frozen=True):
    query: ListQuery
    rows: Sequence[AgentRow]
    count: int
    states: Sequence[Choice]
    next_href: str
    may_add: bool

    @property
    def href(self) -> str:
        return self.query.href()
