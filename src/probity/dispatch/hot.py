"""Claims, renewals and completions in front of the router: decode, group commit, a prepared reply.

Bad input is handed to the normal route, which checks the credential first and then names what is wrong.
"""

import asyncio
from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qs

import msgspec

from probity.dispatch.models import ClaimedJob
from probity.dispatch.routes import job_id_of, wait_seconds
from probity.dispatch.schemas import CompleteIn, HotClaimedOut, RenewalOut
from probity.dispatch.service import DispatchService
from probity.fleet.models import AgentCredential
from probity.fleet.service import presented
from probity.kernel.errors import Invalid
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.hot import HotReply, HotRequest, HotRoute

_NO_CONTENT: Final = HotReply(204)
_BODY_LIMIT: Final = 4 * 1024 * 1024


def routes(dispatch: DispatchService) -> Sequence[HotRoute]:
    decode = msgspec.json.Decoder(CompleteIn).decode
    encode = msgspec.json.Encoder().encode

    async def claim(request: HotRequest) -> HotReply | None:
        credential = _credential(request)
        wait_s = 0.0
        if request.query:
            try:
                (text,) = parse_qs(request.query.decode(), strict_parsing=True).get("wait", ["0"])
                wait_s = wait_seconds(float(text))
            except (ValueError, Invalid):
                return None
        job = await _claim(dispatch, request, credential, wait_s)
        return _NO_CONTENT if job is None else HotReply(200, encode(HotClaimedOut.of(job)))

    async def renew(request: HotRequest) -> HotReply | None:
        try:
            job_id = job_id_of(request.params[1])
        except Invalid:
            return None
        renewal = await dispatch.renew(_credential(request), job_id, address=request.exchange.client_ip)
        return HotReply(200, encode(RenewalOut.of(renewal)))

    async def complete(request: HotRequest) -> HotReply | None:
        try:
            completion, job_id = decode(request.body).model(), job_id_of(request.params[1])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Invalid):
            return None
        await dispatch.complete(_credential(request), job_id, completion, address=request.exchange.client_ip)
        return _NO_CONTENT

    base = "/api/v1/agents/{agent_id}/jobs"
    return (
        HotRoute("POST", f"{base}/claim", claim, (Dialect.BRIDGE,), _BODY_LIMIT),
        HotRoute("POST", f"{base}/{{job_id}}/renew", renew, (Dialect.BRIDGE,), _BODY_LIMIT),
        HotRoute("POST", f"{base}/{{job_id}}/complete", complete, (Dialect.BRIDGE,), _BODY_LIMIT),
    )


def _credential(request: HotRequest) -> AgentCredential:
    return presented(request.params[0], lambda name: request.header(name.encode()))


async def _claim(dispatch: DispatchService, request: HotRequest, credential: AgentCredential, wait_s: float) -> ClaimedJob | None:
    """Claim; while waiting, give up as soon as the agent hangs up, so that no job is leased to nobody."""
    address = request.exchange.client_ip
    if wait_s == 0:
        return await dispatch.claim(credential, address=address)
    claim = asyncio.ensure_future(dispatch.claim(credential, address=address, wait_s=wait_s))
    gone = asyncio.ensure_future(request.wait_disconnect())
    try:
        await asyncio.wait({claim, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await claim if claim.done() else None
    finally:
        for task in (claim, gone):
            task.cancel()
        await asyncio.gather(claim, gone, return_exceptions=True)
