"""Heartbeats in front of the router: decode, group commit, a prepared reply."""

from collections.abc import Sequence
from typing import Final

import msgspec

from probity.fleet.models import Heartbeat
from probity.fleet.schemas import HeartbeatIn, HeartbeatOut
from probity.fleet.service import FleetService, presented
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.hot import HotReply, HotRequest, HotRoute

_EMPTY: Final = Heartbeat()
_NO_CONTENT: Final = HotReply(204)
_BODY_LIMIT: Final = 4 * 1024 * 1024


def routes(fleet: FleetService) -> Sequence[HotRoute]:
    decode = msgspec.json.Decoder(HeartbeatIn).decode
    encode = msgspec.json.Encoder().encode

    async def heartbeat(request: HotRequest) -> HotReply | None:
        if not request.body:
            beat = _EMPTY
        else:
            try:
                beat = decode(request.body).model()
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                # The normal route checks the credential first, then names what is wrong.
                return None
        credential = presented(request.params[0], lambda name: request.header(name.encode()))
        now = await fleet.heartbeat(credential, beat, address=request.exchange.client_ip)
        if beat is _EMPTY:
            return _NO_CONTENT
        return HotReply(200, encode(HeartbeatOut.at(now, fleet.heartbeat_interval_s)))

    return (HotRoute("POST", "/api/v1/agents/{agent_id}/heartbeat", heartbeat, (Dialect.BRIDGE,), _BODY_LIMIT),)
