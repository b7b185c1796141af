from datetime import timedelta

import pytest
import pytest_asyncio

from probity.audit.models import Action
from probity.identity.keys import rules
from probity.identity.keys.errors import KeyExpiryInPast, KeyNeedsMaker, KeyNotFound
from probity.identity.keys.service import KeyService
from probity.identity.roles import KEY_SCOPES, KeyScope
from probity.identity.sessions import rules as session_rules
from probity.identity.sessions.service import SignInService
from probity.identity.sessions.tokens import CredentialForm
from probity.kernel.db import Database, execute, fetch_value
from probity.kernel.errors import Denied
from probity.kernel.principal import Principal, PrincipalKind, system_principal
from tests.cluster import TestDatabase
from tests.fakes import FakeClock
from tests.identity.conftest import Household, Person, audited, sign_in


async def principal_of(service: SignInService, person: Person) -> Principal:
    signed_in = await sign_in(service, person)
    live = await service.find_session(CredentialForm.COOKIE, signed_in.cookie.reveal())
    assert live is not None
    return session_rules.speaker(live)


@pytest_asyncio.fixture
async def boss(sign_in_service: SignInService, ada: Person) -> Principal:
    return await principal_of(sign_in_service, ada)


def test_a_key_is_hashed_as_the_vector_of_the_contract() -> None:
    digest = rules.key_hash("pa_" + "0" * 64)

    assert digest is not None
    assert digest.hex() == "5eda6fb9ea82d56f835547a90de49f56e8f1be09df30bb38d5a24ac8aa30ec7a"


@pytest.mark.parametrize(
    "text", ["", "pa_", "pa_" + "0" * 63, "pa_" + "0" * 65, "pa_" + "G" * 64, "ak_" + "0" * 64, "pa_" + "0" * 64 + "\n"]
)
def test_what_has_not_the_form_of_a_key_is_not_looked_up(text: str) -> None:
    assert rules.key_hash(text) is None


async def test_a_key_speaks_for_itself_in_its_organization(keys: KeyService, boss: Principal) -> None:
    key, text = await keys.create(boss, "ci", KeyScope.READ_WRITE)

    principal = await keys.authenticate(text.reveal())

    assert len(text.reveal()) == 67
    assert key.key_prefix == text.reveal()[:12]
    assert (principal.kind, principal.actor, principal.org_id) == (PrincipalKind.API_KEY, f"apikey:{key.id}", boss.org_id)
    assert principal.permissions == KEY_SCOPES[KeyScope.READ_WRITE]
    assert principal.user_id is None


async def test_a_key_is_not_stored(db: Database, keys: KeyService, boss: Principal) -> None:
    _, text = await keys.create(boss, "ci", KeyScope.READ)

    async with db.system() as tx:
        stored = await fetch_value(
            tx, "select (select string_agg(k::text, '') from api_keys k) || (select string_agg(e::text, '') from audit_events e)"
        )
    assert text.reveal() not in stored
    assert text.reveal()[3:] not in stored


async def test_a_key_never_holds_more_than_its_maker_does(
    db: Database, keys: KeyService, household: Household, sign_in_service: SignInService
) -> None:
    person = await household.person("Pat")
    maker = await principal_of(sign_in_service, person)
    _, text = await keys.create(maker, "ci", KeyScope.READ_WRITE)

    async with db.system() as tx:
        await execute(
            tx,
            "update role_grants g set role_id = r.id from roles r where r.org_id = g.org_id and r.name = 'viewer' and g.user_id = :id",
            id=person.user.id,
        )
    demoted = await keys.authenticate(text.reveal())
    async with db.system() as tx:
        await execute(tx, "update users set disabled_at = now() where id = :id", id=person.user.id)
    disabled = await keys.authenticate(text.reveal())

    assert demoted.permissions == {"runs:read", "projects:read", "agent.list"}
    assert disabled.is_anonymous


async def test_a_maker_who_lacks_a_permission_cannot_give_it(keys: KeyService, boss: Principal) -> None:
    narrow = Principal(
        kind=boss.kind,
        actor=boss.actor,
        org_ids=boss.org_ids,
        active_org=boss.active_org,
        user_id=boss.user_id,
        permissions=frozenset({"settings:users:manage", "runs:read", "endpoints:tasks:command"}),
    )

    key, _ = await keys.create(narrow, "narrow", KeyScope.READ_WRITE)

    assert key.permissions == ("runs:read",)


async def test_a_key_cannot_manage_keys(keys: KeyService, boss: Principal) -> None:
    _, text = await keys.create(boss, "ci", KeyScope.READ_WRITE)
    principal = await keys.authenticate(text.reveal())

    with pytest.raises(Denied):
        await keys.create(principal, "another", KeyScope.READ)
    with pytest.raises(Denied):
        await keys.list_keys(principal)


async def test_a_key_needs_a_person_who_makes_it(keys: KeyService, boss: Principal) -> None:
    server = system_principal(boss.org_id)
    powerful = Principal(
        kind=server.kind,
        actor=server.actor,
        org_ids=server.org_ids,
        active_org=boss.org_id,
        permissions=frozenset({"settings:users:manage"}),
    )

    with pytest.raises(KeyNeedsMaker):
        await keys.create(powerful, "ci", KeyScope.READ)


async def test_a_revoked_key_is_dead_at_once_on_another_server(
    pg: TestDatabase, keys: KeyService, boss: Principal, clock: FakeClock
) -> None:
    key, text = await keys.create(boss, "ci", KeyScope.READ)
    other_db = await Database.open(dsn=pg.app, system_dsn=pg.system)
    try:
        other = KeyService(other_db, clock)
        assert not (await other.authenticate(text.reveal())).is_anonymous

        await keys.revoke(boss, key.id)

        assert (await other.authenticate(text.reveal())).is_anonymous
    finally:
        await other_db.close()
    with pytest.raises(KeyNotFound):
        await keys.revoke(boss, key.id)


async def test_a_key_expires(keys: KeyService, boss: Principal, clock: FakeClock) -> None:
    _, text = await keys.create(boss, "short", KeyScope.READ, expires_at=clock.now() + timedelta(minutes=5))

    clock.advance(299)
    assert not (await keys.authenticate(text.reveal())).is_anonymous
    clock.advance(1)
    assert (await keys.authenticate(text.reveal())).is_anonymous
    with pytest.raises(KeyExpiryInPast):
        await keys.create(boss, "dead", KeyScope.READ, expires_at=clock.now())


async def test_the_last_use_is_noted_once_a_minute(db: Database, keys: KeyService, boss: Principal, clock: FakeClock) -> None:
    _, text = await keys.create(boss, "ci", KeyScope.READ)
    began = clock.now()

    seen = []
    for seconds in (0, 59, 1, 30):
        clock.advance(seconds)
        await keys.authenticate(text.reveal())
        async with db.system() as tx:
            seen.append(await fetch_value(tx, "select last_used_at from api_keys") - began)

    assert seen == [timedelta(0), timedelta(0), timedelta(minutes=1), timedelta(minutes=1)]


async def test_another_organization_neither_sees_nor_revokes_a_key(
    keys: KeyService, boss: Principal, household: Household, sign_in_service: SignInService
) -> None:
    key, text = await keys.create(boss, "ci", KeyScope.READ)
    stranger = await principal_of(sign_in_service, await household.person("Eve", at="Elsewhere"))

    assert await keys.list_keys(stranger) == []
    with pytest.raises(KeyNotFound):
        await keys.revoke(stranger, key.id)
    assert not (await keys.authenticate(text.reveal())).is_anonymous


async def test_keys_are_listed_newest_first_with_the_revoked_ones(
    db: Database, keys: KeyService, boss: Principal, clock: FakeClock
) -> None:
    first, _ = await keys.create(boss, "first", KeyScope.READ)
    clock.advance(1)
    await keys.create(boss, "second", KeyScope.READ)
    await keys.revoke(boss, first.id)

    listed = await keys.list_keys(boss)

    assert [(key.name, key.revoked_at is not None) for key in listed] == [("second", False), ("first", True)]
    assert [event["resource"] for event in await audited(db, Action.KEY_REVOKE)] == [f"apikey:{first.id}"]
