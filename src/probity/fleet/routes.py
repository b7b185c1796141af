"""HTTP of the fleet: the agent routes of the secrets contract, and enrolment tokens of our own."""

from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, Router, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, Parameter

from probity.fleet.errors import DirectMintDisabled, EnrollmentRefused
from probity.fleet.models import EnrollmentTokenId
from probity.fleet.rules import public_key
from probity.fleet.schemas import (
    AgentOut,
    EnrolledOut,
    EnrollIn,
    HeartbeatIn,
    HeartbeatOut,
    MintedOut,
    MintIn,
    NewTokenOut,
    PublicKeyIn,
    RefusedOut,
    TokenIn,
    TokenOut,
    TokenPage,
)
from probity.fleet.service import FleetService, presented
from probity.kernel.errors import ProbityError, status_of
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.exchange import client_ip
from probity.kernel.http.groups import route_group
from probity.kernel.http.request import parse
from probity.kernel.ids import parse_id
from probity.kernel.principal import AgentId, Principal

# Source: secrets.md 6.4, enrol.
_JOB_POLL_S: Final = 5
_MAX_REASON: Final = 500


@post("/agents", permission="agent.mint", status_code=201)
async def mint_agent(data: JSONBody[MintIn], principal: NamedDependency[Principal], fleet: NamedDependency[FleetService]) -> MintedOut:
    """Add an agent without an enrolment token. The secret in the reply is shown once."""
    return MintedOut.of(await fleet.mint(principal, data.model()))


@post("/agents", permission="agent.mint", status_code=201, operation_id="MintAgentDisabled", include_in_schema=False)
async def refuse_mint() -> Response[RefusedOut]:
    """Stands in for `mint_agent` where SB_ALLOW_DIRECT_AGENT_MINT=false, whatever the body."""
    return _refused(DirectMintDisabled())


@get("/agents", permission="agent.list")
async def list_agents(principal: NamedDependency[Principal], fleet: NamedDependency[FleetService]) -> list[AgentOut]:
    """List every agent, the oldest first, revoked ones too."""
    return [AgentOut.of(agent) for agent in await fleet.list_agents(principal)]


@post("/agents/{agent_id:str}/revoke", permission="agent.revoke", status_code=204)
async def revoke_agent(
    agent_id: FromPath[str],
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    fleet: NamedDependency[FleetService],
) -> None:
    """End an agent's credential; its next call is refused. The body may give a `reason`; one that cannot be read is ignored."""
    await fleet.revoke(principal, parse_id(AgentId, agent_id), _reason(await request.body()))


@put("/agents/{agent_id:str}/public-key", agent=True, status_code=204)
async def set_public_key(
    agent_id: FromPath[str],
    data: JSONBody[PublicKeyIn],
    principal: NamedDependency[Principal],
    fleet: NamedDependency[FleetService],
) -> None:
    """Replace the calling agent's public key: 32 bytes of X25519 in standard base64."""
    await fleet.set_public_key(principal, public_key(data.public_key, data.public_key_algorithm))


@post("/agents/{agent_id:str}/heartbeat", agent=True, status_code=200)
async def heartbeat(
    agent_id: FromPath[str], request: Request[Any, Any, Any], fleet: NamedDependency[FleetService]
) -> Response[HeartbeatOut | None]:
    """Note a sign of life, durably. An empty body is answered by 204, a JSON body by the server's time."""
    body = await request.body()
    beat = parse(body, HeartbeatIn, None, Dialect.BRIDGE) if body else HeartbeatIn()
    credential = presented(agent_id, request.headers.get)
    now = await fleet.heartbeat(credential, beat.model(), address=client_ip(request))
    if not body:
        return Response(None, status_code=204)
    return Response(HeartbeatOut.at(now, fleet.heartbeat_interval_s), status_code=200)


@post("/agents/enroll", public=True, status_code=201)
async def enroll(
    data: JSONBody[EnrollIn], request: Request[Any, Any, Any], fleet: NamedDependency[FleetService]
) -> Response[EnrolledOut | RefusedOut]:
    """Join with an enrolment token. The agent's token in the reply is shown once."""
    try:
        minted = await fleet.enrol(data.model(), address=client_ip(request))
    except EnrollmentRefused as refusal:
        return _refused(refusal)  # type: ignore[return-value]  # one of the two shapes
    enrolled = EnrolledOut(str(minted.id), None, minted.secret.reveal(), fleet.heartbeat_interval_s, _JOB_POLL_S)
    return Response(enrolled, status_code=201)


@post("/enrollment-tokens", permission="agent.mint", status_code=201)
async def create_token(data: JSONBody[TokenIn], principal: NamedDependency[Principal], fleet: NamedDependency[FleetService]) -> NewTokenOut:
    """Make a token with which machines join. It is shown once."""
    return NewTokenOut.of(
        await fleet.create_token(principal, name=data.name, ttl_s=data.expires_in_seconds, max_uses=data.max_uses, tags=data.tags)
    )


@get("/enrollment-tokens", permission="agent.mint")
async def list_tokens(
    principal: NamedDependency[Principal],
    fleet: NamedDependency[FleetService],
    limit: FromQuery[Annotated[int, Parameter(ge=1, le=200)]] = 50,
    cursor: FromQuery[str | None] = None,
) -> TokenPage:
    """List enrolment tokens, the newest first, without the tokens themselves."""
    before = None if cursor is None else parse_id(EnrollmentTokenId, cursor)
    tokens = await fleet.list_tokens(principal, before=before, limit=limit)
    return TokenPage([TokenOut.of(token) for token in tokens], str(tokens[-1].id) if len(tokens) == limit else None)


@delete("/enrollment-tokens/{token_id:str}", permission="agent.mint", status_code=204)
async def revoke_token(token_id: FromPath[str], principal: NamedDependency[Principal], fleet: NamedDependency[FleetService]) -> None:
    """Revoke a token that still admits somebody."""
    await fleet.revoke_token(principal, parse_id(EnrollmentTokenId, token_id))


def routes(*, allow_direct_mint: bool) -> list[Router]:
    mint = mint_agent if allow_direct_mint else refuse_mint
    agents = [mint, list_agents, revoke_agent, set_public_key, heartbeat, enroll]
    return [
        route_group(Dialect.BRIDGE, "/api/v1", agents, tags=["Agents"]),
        route_group(Dialect.OWN, "/api/v1", [create_token, list_tokens, revoke_token], tags=["Agents"]),
    ]


def _refused(error: ProbityError) -> Response[RefusedOut]:
    return Response(RefusedOut(error.code, error.message), status_code=status_of(error))


def _reason(body: bytes) -> str | None:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    reason = decoded.get("reason") if isinstance(decoded, dict) else None
    return reason[:_MAX_REASON].replace("\x00", "") if isinstance(reason, str) else None
