import asyncio
import statistics
import time
from datetime import timedelta

import bcrypt
import pytest

from probity.audit.models import Action
from probity.identity.errors import InvalidCredentials, MissingCredentials, NoOrganization
from probity.identity.service import IdentityService
from probity.identity.sessions import tokens
from probity.identity.sessions.models import Caller, SessionKind
from probity.identity.sessions.service import SignInService
from probity.identity.sessions.tokens import CredentialForm
from probity.kernel.db import Database, execute, fetch_value
from probity.kernel.secret import Secret
from tests.cluster import TestDatabase
from tests.fakes import FakeClock
from tests.identity.conftest import KEY, Household, Person, audited, sign_in

COOKIE, BRIDGE, SENTRI = CredentialForm.COOKIE, CredentialForm.BRIDGE_JWT, CredentialForm.SENTRI_JWT
HERE = Caller("192.0.2.1", "tests")


async def refused(service: SignInService, email: str, password: str) -> None:
    with pytest.raises(InvalidCredentials):
        await service.sign_in(email, Secret(password), kind=SessionKind.ROOT, caller=HERE)


async def test_all_three_credentials_of_a_sign_in_open_its_session(sign_in_service: SignInService, ada: Person) -> None:
    signed_in = await sign_in(sign_in_service, ada)

    for form, text in ((COOKIE, signed_in.cookie), (BRIDGE, signed_in.bridge_token), (SENTRI, signed_in.sentri_token)):
        live = await sign_in_service.find_session(form, text.reveal())
        assert live is not None
        assert (live.session.id, live.user.id) == (signed_in.session.id, ada.user.id)


async def test_nothing_that_opens_a_session_is_stored(db: Database, sign_in_service: SignInService, ada: Person) -> None:
    signed_in = await sign_in(sign_in_service, ada)

    async with db.system() as tx:
        stored = await fetch_value(
            tx, "select string_agg(s::text || c::text || u::text, '') from sessions s, session_credentials c, users u, audit_events e"
        )
    assert ada.password not in stored
    for secret in (signed_in.cookie, signed_in.bridge_token, signed_in.sentri_token):
        assert secret.reveal() not in stored


async def test_an_address_is_recognized_in_any_spelling(sign_in_service: SignInService, ada: Person) -> None:
    signed_in = await sign_in_service.sign_in(f"  {ada.email.upper()} ", Secret(ada.password), kind=SessionKind.UI, caller=HERE)

    assert signed_in.user.id == ada.user.id


async def test_a_cookie_is_no_token_and_a_token_no_cookie(sign_in_service: SignInService, ada: Person) -> None:
    signed_in = await sign_in(sign_in_service, ada)

    assert await sign_in_service.find_session(BRIDGE, signed_in.cookie.reveal()) is None
    assert await sign_in_service.find_session(COOKIE, signed_in.bridge_token.reveal()) is None


async def test_five_wrong_passwords_lock_for_fifteen_minutes(
    db: Database, sign_in_service: SignInService, ada: Person, clock: FakeClock
) -> None:
    for _ in range(5):
        await refused(sign_in_service, ada.email, "wrong")

    await refused(sign_in_service, ada.email, ada.password)
    clock.advance(15 * 60 - 1)
    await refused(sign_in_service, ada.email, ada.password)
    clock.advance(2)
    await sign_in(sign_in_service, ada)
    kinds = [event["metadata"].get("error_kind") for event in await audited(db, Action.AUTH_LOGIN)]  # type: ignore[attr-defined]
    assert kinds == ["wrong_password"] * 5 + ["account_locked"] * 2 + [None]


async def test_after_a_lock_one_wrong_password_locks_again_and_a_right_one_clears_the_count(
    sign_in_service: SignInService, ada: Person, clock: FakeClock
) -> None:
    for _ in range(5):
        await refused(sign_in_service, ada.email, "wrong")
    clock.advance(16 * 60)
    await refused(sign_in_service, ada.email, "wrong")
    await refused(sign_in_service, ada.email, ada.password)

    clock.advance(16 * 60)
    await sign_in(sign_in_service, ada)
    for _ in range(4):
        await refused(sign_in_service, ada.email, "wrong")
    await sign_in(sign_in_service, ada)


async def test_parallel_guesses_get_no_more_tries_than_serial_ones(db: Database, sign_in_service: SignInService, ada: Person) -> None:
    async def guess(password: str) -> bool:
        try:
            await sign_in_service.sign_in(ada.email, Secret(password), kind=SessionKind.ROOT, caller=HERE)
        except InvalidCredentials:
            return False
        return True

    # The right password comes last; by then five wrong ones have locked the account.
    outcomes = await asyncio.gather(*(guess(f"wrong-{number}") for number in range(20)), guess(ada.password))

    assert not any(outcomes)
    kinds = [event["metadata"]["error_kind"] for event in await audited(db, Action.AUTH_LOGIN)]  # type: ignore[index]
    assert kinds.count("wrong_password") == 5
    assert len(await audited(db, Action.AUTH_LOCKOUT_APPLIED)) == 1


async def test_an_unknown_address_takes_as_long_as_a_wrong_password(sign_in_service: SignInService, household: Household) -> None:
    people = [await household.person(f"p{number}") for number in range(12)]

    async def took(email: str) -> float:
        began = time.perf_counter()
        await refused(sign_in_service, email, "wrong")
        return time.perf_counter() - began

    known, unknown = [], []
    for person in people:
        known.append(await took(person.email))
        unknown.append(await took("nobody." + person.email))

    # Medians of interleaved measurements; without the dummy hash the ratio is above 5.
    assert 0.5 < statistics.median(known) / statistics.median(unknown) < 2


async def test_every_refusal_reads_the_same(db: Database, sign_in_service: SignInService, household: Household) -> None:
    known, disabled = await household.person("Known"), await household.person("Gone")
    async with db.system() as tx:
        await execute(tx, "update users set disabled_at = now() where id = :id", id=disabled.user.id)

    texts = set()
    for email, password in (
        (known.email, "wrong"),
        (disabled.email, disabled.password),
        ("nobody@x.test", "wrong"),
        ("not an address", "x"),
        ("nul\x00@x.test", "x"),
    ):
        with pytest.raises(InvalidCredentials) as caught:
            await sign_in_service.sign_in(email, Secret(password), kind=SessionKind.ROOT, caller=HERE)
        texts.add((caught.value.message, caught.value.code, str(caught.value.details)))
    assert len(texts) == 1


@pytest.mark.parametrize(("email", "password"), [("", "x"), ("  ", "x"), ("a@b.test", "")])
async def test_empty_fields_are_refused_and_noted(db: Database, sign_in_service: SignInService, email: str, password: str) -> None:
    with pytest.raises(MissingCredentials):
        await sign_in_service.sign_in(email, Secret(password), kind=SessionKind.ROOT, caller=HERE)

    [event] = await audited(db, Action.AUTH_LOGIN)
    assert (event["actor"], event["status"], event["org_id"]) == ("anonymous", "denied", None)
    assert event["metadata"] == {"error_kind": "missing_fields", "email_length": len(email)}


async def test_a_person_without_an_organization_cannot_come_in(db: Database, sign_in_service: SignInService, ada: Person) -> None:
    async with db.system() as tx:
        await execute(tx, "delete from memberships where user_id = :id", id=ada.user.id)

    with pytest.raises(NoOrganization):
        await sign_in(sign_in_service, ada)
    await refused(sign_in_service, ada.email, "wrong")


async def test_a_sign_in_leaves_three_events(db: Database, sign_in_service: SignInService, ada: Person) -> None:
    signed_in = await sign_in(sign_in_service, ada)

    events = await audited(db, Action.AUTH_LOGIN, Action.BREAK_GLASS_LOGIN, Action.SESSION_CREATE)
    actor, org_id = f"user:{ada.user.id}", ada.organization.id
    assert [(event["action"], event["actor"], event["resource"], event["status"], event["org_id"]) for event in events] == [
        ("auth.login", actor, actor, "success", org_id),
        ("BREAK_GLASS_LOGIN", actor, actor, "success", org_id),
        ("session.create", actor, f"session:{signed_in.session.id}", "success", org_id),
    ]
    assert events[1]["metadata"] == {"severity": "CRITICAL", "path": "local", "email": ada.email}
    assert set(events[2]["metadata"]) == {"session_id", "expires_at", "idle_expires_at", "ip", "user_agent"}  # type: ignore[call-overload]


async def test_the_lockout_event_says_how_long(db: Database, sign_in_service: SignInService, ada: Person) -> None:
    for _ in range(5):
        await refused(sign_in_service, ada.email, "wrong")

    [event] = await audited(db, Action.AUTH_LOCKOUT_APPLIED)
    facts = event["metadata"]
    assert (event["actor"], event["resource"], event["status"]) == ("anonymous", f"user:{ada.user.id}", "denied")
    assert (facts["failed_login_count"], facts["threshold"], facts["duration_seconds"]) == (5, 5, 900)  # type: ignore[index]


async def test_a_cookie_goes_stale_by_idling_and_a_token_does_not(sign_in_service: SignInService, ada: Person, clock: FakeClock) -> None:
    signed_in = await sign_in(sign_in_service, ada)

    clock.advance(30 * 60)

    assert await sign_in_service.find_session(COOKIE, signed_in.cookie.reveal()) is None
    assert await sign_in_service.find_session(BRIDGE, signed_in.bridge_token.reveal()) is not None


async def test_use_keeps_a_cookie_alive_until_eight_hours_are_over(sign_in_service: SignInService, ada: Person, clock: FakeClock) -> None:
    signed_in = await sign_in(sign_in_service, ada)

    for _ in range(8 * 3 - 1):
        clock.advance(20 * 60)
        live = await sign_in_service.find_session(COOKIE, signed_in.cookie.reveal())
        assert live is not None
        assert live.session.idle_expires_at <= live.session.expires_at
    clock.advance(20 * 60)

    assert await sign_in_service.find_session(COOKIE, signed_in.cookie.reveal()) is None
    clock.advance(1)
    for form, text in ((BRIDGE, signed_in.bridge_token), (SENTRI, signed_in.sentri_token)):
        assert await sign_in_service.find_session(form, text.reveal()) is None


async def test_use_is_written_down_once_a_minute(db: Database, sign_in_service: SignInService, ada: Person, clock: FakeClock) -> None:
    signed_in = await sign_in(sign_in_service, ada)
    began = clock.now()

    seen = []
    for seconds in (30, 29, 1, 30):
        clock.advance(seconds)
        await sign_in_service.find_session(COOKIE, signed_in.cookie.reveal())
        async with db.system() as tx:
            seen.append(await fetch_value(tx, "select last_used_at from sessions") - began)

    minute = timedelta(minutes=1)
    assert seen == [timedelta(0), timedelta(0), minute, minute]


async def test_a_revoked_session_is_dead_at_once_on_another_server(
    pg: TestDatabase, sign_in_service: SignInService, ada: Person, clock: FakeClock, passwords: object
) -> None:
    signed_in = await sign_in(sign_in_service, ada)
    other_db = await Database.open(dsn=pg.app, system_dsn=pg.system)
    try:
        other = SignInService(other_db, clock, passwords, KEY)  # type: ignore[arg-type]
        assert await other.find_session(COOKIE, signed_in.cookie.reveal()) is not None

        assert await sign_in_service.sign_out([(SENTRI, signed_in.sentri_token.reveal())]) == 1

        for form, text in ((COOKIE, signed_in.cookie), (BRIDGE, signed_in.bridge_token), (SENTRI, signed_in.sentri_token)):
            assert await other.find_session(form, text.reveal()) is None
    finally:
        await other_db.close()


async def test_signing_out_twice_ends_the_session_once(db: Database, sign_in_service: SignInService, ada: Person) -> None:
    signed_in = await sign_in(sign_in_service, ada)
    credentials = [(COOKIE, signed_in.cookie.reveal()), (BRIDGE, signed_in.bridge_token.reveal()), (COOKIE, "nonsense")]

    assert await sign_in_service.sign_out(credentials) == 1
    assert await sign_in_service.sign_out(credentials) == 0
    events = await audited(db, Action.SESSION_REVOKE, Action.AUTH_LOGOUT)
    assert [event["action"] for event in events] == ["session.revoke", "auth.logout"]


async def test_sign_ins_in_one_second_get_tokens_of_their_own(sign_in_service: SignInService, ada: Person) -> None:
    first, second = await sign_in(sign_in_service, ada), await sign_in(sign_in_service, ada)

    assert first.bridge_token != second.bridge_token
    assert first.cookie != second.cookie
    await sign_in_service.sign_out([(COOKIE, first.cookie.reveal())])
    assert await sign_in_service.find_session(BRIDGE, first.bridge_token.reveal()) is None
    assert await sign_in_service.find_session(BRIDGE, second.bridge_token.reveal()) is not None


async def test_a_genuine_token_that_no_session_knows_opens_nothing(sign_in_service: SignInService, ada: Person, clock: FakeClock) -> None:
    stolen_key_token = tokens.bridge_jwt(
        KEY, user_id=ada.user.id, email=ada.email, name="Ada", issued_at=clock.now(), expires_at=clock.now() + timedelta(hours=8)
    )

    assert await sign_in_service.find_session(BRIDGE, stolen_key_token) is None


async def test_a_bcrypt_password_is_upgraded_by_signing_in(db: Database, sign_in_service: SignInService, ada: Person) -> None:
    old = bcrypt.hashpw(ada.password.encode(), bcrypt.gensalt(4)).decode()
    async with db.system() as tx:
        await execute(tx, "update users set password_hash = :old where id = :id", old=old, id=ada.user.id)

    await sign_in(sign_in_service, ada)

    async with db.system() as tx:
        assert str(await fetch_value(tx, "select password_hash from users")).startswith("$argon2id$")
    await sign_in(sign_in_service, ada)


async def test_a_reset_password_ends_every_session_and_unlocks(
    db: Database, identity: IdentityService, sign_in_service: SignInService, ada: Person
) -> None:
    signed_in = [await sign_in(sign_in_service, ada) for _ in range(2)]
    for _ in range(5):
        await refused(sign_in_service, ada.email, "wrong")

    await identity.reset_password(ada.email.upper(), Secret("An0ther-horse"))

    for each in signed_in:
        assert await sign_in_service.find_session(COOKIE, each.cookie.reveal()) is None
        assert await sign_in_service.find_session(BRIDGE, each.bridge_token.reveal()) is None
    await refused(sign_in_service, ada.email, ada.password)
    ada.password = "An0ther-horse"
    await sign_in(sign_in_service, ada)
    [event] = await audited(db, Action.SESSION_REVOKE_ALL)
    assert event["metadata"] == {"count": 2}


async def test_a_disabled_person_is_out_at_once(db: Database, sign_in_service: SignInService, ada: Person) -> None:
    signed_in = await sign_in(sign_in_service, ada)

    async with db.system() as tx:
        await execute(tx, "update users set disabled_at = now()")

    assert await sign_in_service.find_session(COOKIE, signed_in.cookie.reveal()) is None


async def test_a_session_waiting_for_its_second_factor_opens_nothing(db: Database, sign_in_service: SignInService, ada: Person) -> None:
    signed_in = await sign_in(sign_in_service, ada)

    async with db.system() as tx:
        await execute(tx, "update sessions set mfa_pending = true")

    assert await sign_in_service.find_session(COOKIE, signed_in.cookie.reveal()) is None


async def test_ended_sessions_are_swept_after_a_week(db: Database, sign_in_service: SignInService, ada: Person, clock: FakeClock) -> None:
    await sign_in(sign_in_service, ada)
    clock.advance(8 * 3600 + 7 * 86400 - 1)
    assert await sign_in_service.sweep() == 0
    await sign_in(sign_in_service, ada)
    clock.advance(2)

    assert await sign_in_service.sweep() == 1
    async with db.system() as tx:
        assert await fetch_value(tx, "select count(*) from session_credentials") == 3
