import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probity.audit.models import Action
from probity.kernel.db import Database, execute, fetch_value
from probity.kernel.errors import Denied
from probity.kernel.ids import hex24
from probity.kernel.principal import Principal
from probity.projects import rules
from probity.projects.errors import ProjectArchived, ProjectNameInvalid, ProjectNotFound
from probity.projects.models import Project
from probity.projects.service import ProjectService
from tests.fakes import FakeClock


@pytest.fixture
def projects(db: Database, clock: FakeClock) -> ProjectService:
    return ProjectService(db, clock)


@pytest.fixture
def named(db: Database, projects: ProjectService):
    """Name a project as a run does: in a transaction of its own."""

    async def name(principal: Principal, text: str) -> Project:
        async with db.transaction(principal) as tx:
            return await projects.get_or_create_in(tx, principal, text)

    return name


async def test_a_project_is_made_when_it_is_first_named(db: Database, named, admin: Principal) -> None:
    first = await named(admin, "  Shop   front ")
    again = await named(admin, "shop FRONT")

    assert (first.name, first.key, first.slug) == ("Shop front", "PRJ-1", "shop-front-1")
    assert again == first
    async with db.system() as tx:
        assert await fetch_value(tx, "select count(*) from audit_events where action = :action", action=Action.PROJECT_CREATE.value) == 1


async def test_every_spelling_finds_it(projects: ProjectService, named, admin: Principal) -> None:
    project = await named(admin, "Shop")

    for text in ("PRJ-1", "prj-1", "shop", str(project.id), project.id.hex, hex24(project.id)):
        assert await projects.get(admin, text) == project


@pytest.mark.parametrize("text", ["PRJ-9", "01a20586-77f2-70bc-afaf-cd9f63854444"])
async def test_a_number_or_id_that_is_not_there_makes_nothing(db: Database, named, admin: Principal, text: str) -> None:
    with pytest.raises(ProjectNotFound):
        await named(admin, text)

    async with db.system() as tx:
        assert await fetch_value(tx, "select count(*) from projects") == 0


@pytest.mark.parametrize("text", ["", "   ", "x" * 201, "a\x00b"])
async def test_a_name_has_bounds(named, admin: Principal, text: str) -> None:
    with pytest.raises(ProjectNameInvalid):
        await named(admin, text)


async def test_many_who_name_one_new_project_get_the_same(named, admin: Principal) -> None:
    made = await asyncio.gather(*(named(admin, "Shop") for _ in range(9)))

    assert len({project.id for project in made}) == 1


async def test_another_organization_has_its_own_of_that_name(
    projects: ProjectService, named, admin: Principal, outsider: Principal
) -> None:
    ours, theirs = await named(admin, "Shop"), await named(outsider, "Shop")

    assert (ours.key, theirs.key) == ("PRJ-1", "PRJ-1")
    assert ours.id != theirs.id
    with pytest.raises(ProjectNotFound):
        await projects.get(outsider, str(ours.id))


async def test_an_archived_project_takes_nothing_new(db: Database, named, admin: Principal) -> None:
    project = await named(admin, "Old")
    async with db.transaction(admin) as tx:
        await execute(tx, "update projects set status = 'archived' where id = :id", id=project.id)

    with pytest.raises(ProjectArchived):
        await named(admin, "old")


async def test_projects_are_listed_newest_first(projects: ProjectService, named, admin: Principal) -> None:
    for name in ("One", "Two", "Three"):
        await named(admin, name)

    page = await projects.list_projects(admin, limit=2)
    rest = await projects.list_projects(admin, before=page[-1].number)

    assert [project.name for project in page + rest] == ["Three", "Two", "One"]


async def test_reading_needs_the_permission(projects: ProjectService, admin: Principal) -> None:
    nobody = Principal(kind=admin.kind, actor=admin.actor, org_ids=admin.org_ids, active_org=admin.active_org)

    with pytest.raises(Denied):
        await projects.list_projects(nobody)


@given(st.text(max_size=250), st.integers(min_value=1, max_value=10**12))
def test_a_slug_is_always_fit_for_an_address(name: str, number: int) -> None:
    slug = rules.slug_of(name, number)

    assert len(slug) <= 63
    assert all(word.isascii() and word.isalnum() and word == word.lower() for word in slug.split("-"))
