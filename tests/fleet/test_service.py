import asyncio

import asyncpg
import pytest

from probity.fleet.errors import (
    AgentNameTaken,
    AgentNotFound,
    AgentRejected,
    EnrollmentNameRequired,
    EnrollmentNameTaken,
    EnrollmentRefused,
    EnrollmentTokenConsumed,
    EnrollmentTokenExpired,
    EnrollmentTokenInvalid,
    EnrollmentTokenRevoked,
    InvalidAgent,
    TokenNotFound,
)
from probity.fleet.models import AgentCredential, AgentStatus, Enrollment, Heartbeat, NewAgent
from probity.fleet.rules import public_key
from probity.fleet.service import FleetService, credential_of
from probity.fleet.tasks import MarkStaleAgents, mark_stale_agents
from probity.kernel.db import Database
from probity.kernel.errors import Denied, TooMany, Unauthenticated
from probity.kernel.ids import new_id
from probity.kernel.limits import LocalLimiter
from probity.kernel.principal import ANONYMOUS, AgentId, Principal
from probity.kernel.secret import Secret
from probity.kernel.tasks import TaskContext
from tests.fakes import FakeClock
from tests.fleet.conftest import an_agent, trail

HERE = "192.0.2.1"
BEAT = Heartbeat()


def an_enrollment(token: Secret, name: str = "runner-1") -> Enrollment:
    return Enrollment(token=token, name=name, version="1.2", capabilities=("command",), tags=("linux",), hostname="box")


async def test_a_minted_agent_is_active_and_its_secret_is_shown_once(fleet: FleetService, admin: Principal, db: Database) -> None:
    minted = await fleet.mint(admin, NewAgent(name=" runner-1 ", scope={"cluster": "a"}))

    (agent,) = await fleet.list_agents(admin)
    assert (agent.id, agent.name, agent.status, agent.scope) == (minted.id, "runner-1", AgentStatus.ACTIVE, {"cluster": "a"})
    assert len(minted.secret.reveal()) == 43
    assert await trail(db) == [("agent.mint", admin.actor, "success", {"name": "runner-1"})]


async def test_two_live_agents_cannot_share_a_name(fleet: FleetService, admin: Principal, outsider: Principal) -> None:
    first = await an_agent(fleet, admin)
    await an_agent(fleet, outsider)

    with pytest.raises(AgentNameTaken):
        await an_agent(fleet, admin)
    await fleet.revoke(admin, first.agent_id)
    await an_agent(fleet, admin)


@pytest.mark.parametrize("name", ["", "   ", "x" * 201, "a\nb", "a\x00b"])
async def test_a_name_is_printable_and_not_too_long(fleet: FleetService, admin: Principal, name: str) -> None:
    with pytest.raises(InvalidAgent):
        await fleet.mint(admin, NewAgent(name=name))


async def test_administration_needs_its_permission(fleet: FleetService) -> None:
    for call in (
        fleet.mint(ANONYMOUS, NewAgent(name="x")),
        fleet.list_agents(ANONYMOUS),
        fleet.revoke(ANONYMOUS, AgentId(new_id())),
        fleet.create_token(ANONYMOUS),
        fleet.list_tokens(ANONYMOUS),
    ):
        with pytest.raises((Unauthenticated, Denied)):
            await call


async def test_another_organizations_agents_do_not_exist(fleet: FleetService, admin: Principal, outsider: Principal, db: Database) -> None:
    agent = await an_agent(fleet, admin)
    token = await fleet.create_token(admin)

    assert await fleet.list_agents(outsider) == []
    assert await fleet.list_tokens(outsider) == []
    with pytest.raises(AgentNotFound):
        await fleet.revoke(outsider, agent.agent_id)
    with pytest.raises(AgentNotFound):
        await fleet.get_agent(outsider, agent.agent_id)
    with pytest.raises(TokenNotFound):
        await fleet.revoke_token(outsider, token.id)
    async with db.transaction(outsider) as tx:
        for text in ("runner-1", str(agent.agent_id)):
            with pytest.raises(AgentNotFound):
                await fleet.resolve_agent_in(tx, outsider, text)


async def test_an_agent_is_found_by_name_and_by_any_spelling_of_its_id(fleet: FleetService, admin: Principal, db: Database) -> None:
    agent = await an_agent(fleet, admin)

    async with db.transaction(admin) as tx:
        for text in ("runner-1", str(agent.agent_id), agent.agent_id.hex, agent.agent_id.hex[:24]):
            assert (await fleet.resolve_agent_in(tx, admin, text)).id == agent.agent_id


async def test_a_heartbeat_notes_what_the_agent_says(fleet: FleetService, admin: Principal, clock: FakeClock) -> None:
    agent = await an_agent(fleet, admin, capabilities=("a",))

    await fleet.heartbeat(agent, Heartbeat(status="busy", version="2.0", capabilities=("b", "c")), address=HERE)
    await fleet.heartbeat(agent, Heartbeat(status="", version=""), address=HERE)
    (seen,) = await fleet.list_agents(admin)
    assert (seen.last_status, seen.agent_version, seen.capabilities, seen.last_seen_at) == ("busy", "2.0", ("b", "c"), clock.now())

    await fleet.heartbeat(agent, Heartbeat(capabilities=()), address=HERE)
    (seen,) = await fleet.list_agents(admin)
    assert seen.capabilities == ()


async def test_concurrent_heartbeats_share_statements_and_each_is_durable(fleet: FleetService, admin: Principal, clock: FakeClock) -> None:
    agents = [await an_agent(fleet, admin, f"runner-{n}") for n in range(20)]
    clock.advance(7)
    wrong = AgentCredential(agents[0].agent_id, b"x" * 32)

    results = await asyncio.gather(
        *(fleet.heartbeat(agent, BEAT, address=HERE) for agent in [*agents, wrong, agents[1]]), return_exceptions=True
    )

    assert [isinstance(result, AgentRejected) for result in results] == [False] * 20 + [True, False]
    assert {agent.last_seen_at for agent in await fleet.list_agents(admin)} == {clock.now()}


async def test_the_seventh_heartbeat_in_a_minute_is_refused_and_guessers_do_not_spend_the_budget(
    fleet: FleetService, admin: Principal, clock: FakeClock
) -> None:
    agent = await an_agent(fleet, admin)
    for _ in range(9):
        with pytest.raises(AgentRejected):
            await fleet.heartbeat(AgentCredential(agent.agent_id, b"x" * 32), BEAT, address=HERE)
    for _ in range(6):
        await fleet.heartbeat(agent, BEAT, address=HERE)

    with pytest.raises(TooMany) as refused:
        await fleet.heartbeat(agent, BEAT, address=HERE)
    assert refused.value.retry_after_s == 60
    clock.advance(60)
    await fleet.heartbeat(agent, BEAT, address=HERE)


async def test_silence_makes_an_agent_stale_and_a_heartbeat_brings_it_back(
    fleet: FleetService, admin: Principal, clock: FakeClock, db: Database
) -> None:
    agent = await an_agent(fleet, admin)
    ctx = TaskContext(new_id(), None, new_id(), 1, 1, db, clock)

    async def status() -> AgentStatus:
        await mark_stale_agents(MarkStaleAgents(), ctx)
        return (await fleet.get_agent(admin, agent.agent_id)).status

    await fleet.heartbeat(agent, BEAT, address=HERE)
    clock.advance(300)
    assert await status() is AgentStatus.ACTIVE
    clock.advance(1)
    assert await status() is AgentStatus.STALE
    await fleet.heartbeat(agent, BEAT, address=HERE)
    assert await status() is AgentStatus.ACTIVE


async def test_a_revoked_agent_is_refused_at_once_by_every_server(
    fleet: FleetService, admin: Principal, clock: FakeClock, pg, db: Database
) -> None:
    agent = await an_agent(fleet, admin)
    other_db = await Database.open(dsn=pg.app, system_dsn=pg.system)
    other = FleetService(other_db, clock, LocalLimiter(clock))
    await other.heartbeat(agent, BEAT, address=HERE)

    await fleet.revoke(admin, agent.agent_id, "lost")
    await fleet.revoke(admin, agent.agent_id, "again")

    for call in (other.heartbeat(agent, BEAT, address=HERE), other.authenticate(agent, address=HERE)):
        with pytest.raises(AgentRejected):
            await call
    await other_db.close()
    assert [(action, metadata.get("reason")) for action, _, _, metadata in await trail(db)] == [
        ("agent.mint", None),
        ("agent.revoked", "lost"),
        ("agent.auth.rejected", "revoked"),
        ("agent.auth.rejected", "revoked"),
    ]


async def test_rejections_name_their_reason_to_the_trail_only_and_cannot_flood_it(
    fleet: FleetService, admin: Principal, db: Database, clock: FakeClock
) -> None:
    agent = await an_agent(fleet, admin)
    for _ in range(30):
        with pytest.raises(AgentRejected, match="agent auth rejected"):
            await fleet.authenticate(AgentCredential(agent.agent_id, b"x" * 32), address=HERE)
        with pytest.raises(AgentRejected, match="agent auth rejected"):
            await fleet.authenticate(AgentCredential(AgentId(new_id()), b"x" * 32), address=HERE)

    reasons = [metadata["reason"] for action, _, _, metadata in await trail(db) if action == "agent.auth.rejected"]
    assert (reasons.count("bad_secret"), reasons.count("unknown_agent"), len(reasons)) == (10, 10, 20)


async def test_a_machine_joins_with_a_token(fleet: FleetService, admin: Principal, db: Database) -> None:
    token = await fleet.create_token(admin, name="lab", tags=("gpu",))

    minted = await fleet.enrol(an_enrollment(token.secret), address=HERE)

    agent = await fleet.get_agent(admin, minted.id)
    assert (agent.status, agent.name, agent.agent_version, agent.hostname) == (AgentStatus.ENROLLED, "runner-1", "1.2", "box")
    assert (agent.capabilities, sorted(agent.tags)) == (("command",), ["gpu", "linux"])
    await fleet.heartbeat(credential_of(minted.id, minted.secret.reveal()), BEAT, address=HERE)
    assert (await fleet.get_agent(admin, minted.id)).status is AgentStatus.ACTIVE
    action, actor, _, metadata = (await trail(db))[-1]
    assert (action, actor, metadata["enrollment_token_id"]) == ("agent.enrolled", f"agent:{minted.id}", str(token.id))


async def test_a_token_admits_as_many_as_it_says_and_never_more_at_once(fleet: FleetService, admin: Principal) -> None:
    token = await fleet.create_token(admin, max_uses=3)

    results = await asyncio.gather(
        *(fleet.enrol(an_enrollment(token.secret, f"runner-{n}"), address=HERE) for n in range(8)), return_exceptions=True
    )

    assert sum(isinstance(result, EnrollmentTokenConsumed) for result in results) == 5
    assert len(await fleet.list_agents(admin)) == 3
    assert [token.uses for token in await fleet.list_tokens(admin)] == [3]


async def test_each_refusal_of_a_machine_has_its_code_and_reason(
    fleet: FleetService, admin: Principal, clock: FakeClock, db: Database
) -> None:
    consumed, revoked = await fleet.create_token(admin), await fleet.create_token(admin)
    await fleet.enrol(an_enrollment(consumed.secret, "first"), address=HERE)
    await fleet.revoke_token(admin, revoked.id)
    expired = await fleet.create_token(admin, ttl_s=60)
    clock.advance(60)

    async def refusal(token: Secret, name: str = "second") -> type[EnrollmentRefused]:
        with pytest.raises(EnrollmentRefused) as refused:
            await fleet.enrol(an_enrollment(token, name), address=HERE)
        return refused.type

    assert await refusal(Secret("")) is EnrollmentTokenInvalid
    assert await refusal(consumed.secret, "  ") is EnrollmentNameRequired
    assert await refusal(Secret("nonsense")) is EnrollmentTokenInvalid
    assert await refusal(revoked.secret) is EnrollmentTokenRevoked
    assert await refusal(consumed.secret) is EnrollmentTokenConsumed
    assert await refusal(expired.secret) is EnrollmentTokenExpired
    reasons = [metadata["reason"] for action, actor, _, metadata in await trail(db) if actor == "agent:enroll"]
    assert reasons == ["token_invalid", "token_revoked", "token_already_consumed", "token_expired"]


async def test_a_taken_name_leaves_the_token_usable(fleet: FleetService, admin: Principal) -> None:
    await an_agent(fleet, admin)
    token = await fleet.create_token(admin)

    with pytest.raises(EnrollmentNameTaken):
        await fleet.enrol(an_enrollment(token.secret), address=HERE)

    await fleet.enrol(an_enrollment(token.secret, "runner-2"), address=HERE)


async def test_a_token_can_be_revoked_while_it_admits_somebody(fleet: FleetService, admin: Principal) -> None:
    token = await fleet.create_token(admin)

    await fleet.revoke_token(admin, token.id)

    with pytest.raises(TokenNotFound):
        await fleet.revoke_token(admin, token.id)


async def test_the_public_key_is_recorded_by_its_digest(fleet: FleetService, admin: Principal, db: Database) -> None:
    agent = await an_agent(fleet, admin)
    principal = await fleet.authenticate(agent, address=HERE)

    await fleet.set_public_key(principal, public_key("B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9/AsrhtHHw=", None))

    action, actor, _, metadata = (await trail(db))[-1]
    assert (action, actor, metadata) == (
        "agent.public_key.set",
        f"agent:{agent.agent_id}",
        {"algorithm": "x25519", "public_key_sha": "qqj_9wO1CyI"},
    )


async def test_a_failing_audit_row_fails_the_action(fleet: FleetService, admin: Principal, pg) -> None:
    superuser = await asyncpg.connect(pg.owner.reveal())
    await superuser.execute("alter table audit_events add constraint refuse_all check (false) not valid")
    try:
        with pytest.raises(asyncpg.CheckViolationError):
            await fleet.mint(admin, NewAgent(name="runner-1"))
    finally:
        await superuser.execute("alter table audit_events drop constraint refuse_all")
        await superuser.close()
    assert await fleet.list_agents(admin) == []
