"""Ingest in front of the router: who is it, decode, append. Whatever is not plainly right is left to the normal route."""

from collections.abc import Sequence
from typing import Final

import msgspec

from probity.fleet.service import FleetService, presented
from probity.identity.keys.service import KEY_PREFIX, KeyService
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.hot import HotReply, HotRequest, HotRoute
from probity.kernel.principal import Principal
from probity.runs.ingest.schemas import EVENTS_BODY_LIMIT, EventBatch
from probity.runs.ingest.service import IngestService
from probity.runs.service import RunService, parse_ref

_BEARER_KEY: Final = f"Bearer {KEY_PREFIX}"
_JSON: Final = ("application/json", None)


def routes(runs: RunService, ingest: IngestService, fleet: FleetService, keys: KeyService) -> Sequence[HotRoute]:
    decode = msgspec.json.Decoder(EventBatch).decode
    encode = msgspec.json.Encoder().encode

    async def caller(request: HotRequest) -> Principal | None:
        """Return an agent or the holder of a key; None for everybody whose credential takes a longer look."""
        if request.header(b"cookie") is not None:
            return None
        agent_id = request.header(b"x-agent-id")
        if agent_id is not None and request.header(b"x-agent-secret") is not None:
            credential = presented(agent_id, lambda name: request.header(name.encode()))
            return await fleet.authenticate(credential, address=request.exchange.client_ip)
        authorization = request.header(b"authorization") or ""
        if not authorization.startswith(_BEARER_KEY):
            return None
        principal = await keys.authenticate(authorization.removeprefix("Bearer "))
        return None if principal.is_anonymous else principal

    async def append(request: HotRequest) -> HotReply | None:
        if request.header(b"content-type") not in _JSON:
            return None
        try:
            batch = decode(request.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # The normal route checks the credential first, then names every wrong field.
            return None
        principal = await caller(request)
        if principal is None:
            return None
        run_id = await runs.id_of(principal, parse_ref(request.params[0]))
        return HotReply(200, encode(await ingest.ingest(principal, run_id, batch.events)))

    return (HotRoute("POST", "/api/v1/runs/{run}/events", append, (Dialect.OWN,), EVENTS_BODY_LIMIT),)
