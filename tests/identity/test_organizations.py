import asyncio

import pytest

from probity.audit.models import Action
from probity.identity.errors import EmailTaken, RoleNotFound, SlugTaken, UserNotFound, WeakPassword
from probity.identity.roles import BUILT_IN, BuiltInRole
from probity.identity.service import IdentityService, next_number
from probity.identity.sessions import store as session_store
from probity.kernel.db import Database, fetch_rows, fetch_value
from probity.kernel.errors import Denied
from probity.kernel.principal import OrgId, Principal, system_principal
from probity.kernel.secret import Secret
from tests.identity.conftest import PASSWORD, Household, Person, audited


async def test_an_organization_starts_with_the_built_in_roles(db: Database, identity: IdentityService) -> None:
    organization = await identity.create_organization("Initech GmbH")

    async with db.transaction(system_principal(organization.id)) as tx:
        rows = await fetch_rows(tx, "select name, permissions, is_system from roles")
    assert organization.slug == "initech-gmbh"
    assert {row["name"]: frozenset(row["permissions"]) for row in rows} == {role.value: BUILT_IN[role] for role in BuiltInRole}
    assert all(row["is_system"] for row in rows)


async def test_equal_names_get_different_short_names(identity: IdentityService) -> None:
    first, second = await identity.create_organization("Same"), await identity.create_organization("Same")

    assert first.slug == "same"
    assert second.slug.startswith("same-")
    with pytest.raises(SlugTaken):
        await identity.create_organization("Other", slug="same")


async def test_a_person_holds_what_their_role_allows(db: Database, household: Household) -> None:
    person = await household.person("Vera", role="viewer")

    known = await session_store.find_known_user_all_tenants(db, person.email)

    assert known is not None
    [membership] = known.memberships
    [grant] = membership.grants
    assert (grant.role, frozenset(grant.permissions), grant.scope) == ("viewer", BUILT_IN[BuiltInRole.VIEWER], {})


async def test_an_address_belongs_to_one_person(identity: IdentityService, ada: Person) -> None:
    elsewhere = await identity.create_organization("Elsewhere")

    with pytest.raises(EmailTaken):
        await identity.create_user(system_principal(elsewhere.id), ada.email.upper(), Secret(PASSWORD))


async def test_a_refused_person_leaves_nothing_behind(db: Database, identity: IdentityService, ada: Person) -> None:
    principal = system_principal(ada.organization.id)

    with pytest.raises(RoleNotFound):
        await identity.create_user(principal, "x@y.test", Secret(PASSWORD), role="emperor")
    with pytest.raises(WeakPassword):
        await identity.create_user(principal, "x@y.test", Secret("short"))

    async with db.system() as tx:
        assert await fetch_value(tx, "select count(*) from users") == 1


async def test_only_who_manages_people_may_add_one(identity: IdentityService, org: OrgId, admin: Principal) -> None:
    viewer = Principal(kind=admin.kind, actor=admin.actor, org_ids=(org,), active_org=org, permissions=frozenset({"runs:read"}))

    with pytest.raises(Denied):
        await identity.create_user(viewer, "x@y.test", Secret(PASSWORD))


async def test_members_are_listed_oldest_first_and_only_ones_own(identity: IdentityService, household: Household, admin: Principal) -> None:
    ada, bob = await household.person("Ada", is_owner=True), await household.person("Bob", role="viewer")
    await household.person("Eve", at="Elsewhere")
    caller = Principal(
        kind=admin.kind,
        actor=admin.actor,
        org_ids=(ada.organization.id,),
        active_org=ada.organization.id,
        permissions=frozenset({"settings:users:manage"}),
    )

    members = await identity.list_members(caller)
    rest = await identity.list_members(caller, after=(members[0].joined_at, members[0].user.id))

    assert [(member.user.display_name, member.roles, member.is_owner) for member in members] == [
        ("Ada", ("admin",), True),
        ("Bob", ("viewer",), False),
    ]
    assert [member.user.id for member in rest] == [bob.user.id]


async def test_the_first_administrator_is_made_once(db: Database, identity: IdentityService) -> None:
    made = await asyncio.gather(*(identity.bootstrap("root@x.test", Secret(PASSWORD)) for _ in range(5)))
    later = await identity.bootstrap("other@x.test", Secret(PASSWORD))

    assert sum(user is not None for user in made) == 1
    assert later is None
    [event] = await audited(db, Action.AUTH_BOOTSTRAP_ADMIN)
    assert (event["actor"], event["metadata"]) == ("system:bootstrap", {"email": "root@x.test", "role": "admin"})
    async with db.system() as tx:
        assert await fetch_value(tx, "select count(*) from organizations") == 1


async def test_nobody_is_reset_by_a_wrong_address(identity: IdentityService) -> None:
    with pytest.raises(UserNotFound):
        await identity.reset_password("nobody@x.test", Secret(PASSWORD))


async def test_numbers_count_up_without_gaps_or_repeats_when_many_ask(db: Database, org: OrgId, other_org: OrgId) -> None:
    async def take(org_id: OrgId, kind: str) -> int:
        async with db.transaction(system_principal(org_id)) as tx:
            return await next_number(tx, org_id, kind)

    numbers = await asyncio.gather(*(take(org, "RUN") for _ in range(30)))

    assert sorted(numbers) == list(range(1, 31))
    assert [await take(org, "PRJ"), await take(other_org, "RUN")] == [1, 1]
