"""People, and the services that know them."""

from collections.abc import AsyncIterator, Iterator

import httpx
import msgspec
import pytest
import pytest_asyncio
from litestar import Litestar

from probity import main
from probity.audit.models import Action
from probity.config import Config
from probity.identity.keys.service import KeyService
from probity.identity.models import Organization, User
from probity.identity.passwords import Passwords
from probity.identity.roles import BuiltInRole
from probity.identity.service import IdentityService
from probity.identity.sessions.models import Caller, SessionKind, SignedIn
from probity.identity.sessions.service import SignInService
from probity.kernel.db import Database, fetch_rows
from probity.kernel.principal import system_principal
from probity.kernel.secret import Secret
from tests import http_app
from tests.fakes import FakeClock

PASSWORD = "Correct-horse7"
KEY = b"k" * 32


class Person(msgspec.Struct):
    """Somebody who can sign in, and their organization."""

    user: User
    organization: Organization
    email: str
    password: str = PASSWORD


class Household:
    """Makes people."""

    def __init__(self, identity: IdentityService) -> None:
        self._identity = identity
        self._organizations: dict[str, Organization] = {}

    async def person(self, name: str, *, at: str = "Initech", role: str = BuiltInRole.ADMIN, is_owner: bool = False) -> Person:
        if at not in self._organizations:
            self._organizations[at] = await self._identity.create_organization(at)
        organization = self._organizations[at]
        email = f"{name.lower()}@{organization.slug}.test"
        user = await self._identity.create_user(
            system_principal(organization.id), email, Secret(PASSWORD), display_name=name, role=role, is_owner=is_owner
        )
        return Person(user, organization, email)


@pytest.fixture(scope="session")
def passwords() -> Iterator[Passwords]:
    made = Passwords(threads=2)
    yield made
    made.close()


@pytest.fixture
def identity(db: Database, clock: FakeClock, passwords: Passwords) -> IdentityService:
    return IdentityService(db, clock, passwords)


@pytest.fixture
def sign_in_service(db: Database, clock: FakeClock, passwords: Passwords) -> SignInService:
    return SignInService(db, clock, passwords, KEY)


@pytest.fixture
def keys(db: Database, clock: FakeClock) -> KeyService:
    return KeyService(db, clock)


@pytest.fixture
def household(identity: IdentityService) -> Household:
    return Household(identity)


@pytest_asyncio.fixture
async def ada(household: Household) -> Person:
    """An administrator of Initech."""
    return await household.person("Ada")


@pytest.fixture
def timed_app(db: Database, config: Config, clock: FakeClock) -> Litestar:
    """The whole application on the clock of the test, which knows real credentials only."""
    return main.build(config, clock=clock)


@pytest_asyncio.fixture
async def web(timed_app: Litestar) -> AsyncIterator[httpx.AsyncClient]:
    async with http_app.client_of(timed_app) as client:
        yield client


async def sign_in(service: SignInService, person: Person, kind: SessionKind = SessionKind.ROOT) -> SignedIn:
    return await service.sign_in(person.email, Secret(person.password), kind=kind, caller=Caller("192.0.2.1", "tests"))


async def audited(db: Database, *actions: Action) -> list[dict[str, object]]:
    """Return the events of these actions, oldest first."""
    async with db.system() as tx:
        rows = await fetch_rows(
            tx,
            "select org_id, actor, action, resource, status, metadata from audit_events where action = any (:actions::text[]) order by id",
            actions=[action.value for action in actions],
        )
    return [dict(row) for row in rows]
