"""Agents as callers: `X-Agent-Secret` with the id in the path, or with `X-Agent-ID` on paths that name no agent."""

import re
from typing import Final

from probity.fleet.service import FleetService, presented
from probity.kernel.http.auth import Connection
from probity.kernel.http.exchange import client_ip
from probity.kernel.principal import ANONYMOUS, Principal

# The paths on which an agent acts for itself. `revoke` is the one below an agent's id that people call.
_OWN_PATH: Final = re.compile(r"/api/v1/agents/(?P<id>[^/]+)/(?!revoke$)")
_SECRET: Final = "x-agent-secret"
_ID: Final = "x-agent-id"


class AgentAuthenticator:
    """Asked before the authenticators of users: where an agent's secret is presented, nothing else counts."""

    def __init__(self, fleet: FleetService) -> None:
        self._fleet = fleet

    async def authenticate(self, request: Connection) -> Principal:
        own = _OWN_PATH.match(request.scope["path"])
        if own is not None:
            credential = presented(own["id"], request.headers.get)
        elif _SECRET in request.headers and _ID in request.headers:
            credential = presented(request.headers[_ID], request.headers.get)
        else:
            return ANONYMOUS
        return await self._fleet.authenticate(credential, address=client_ip(request))
