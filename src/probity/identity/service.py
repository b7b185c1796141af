"""Organizations and people: the operations that other domains, pages and commands may call."""

import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from probity.audit import service as audit
from probity.audit.models import Action
from probity.identity import roles, rules, store
from probity.identity.errors import SlugTaken, UserNotFound
from probity.identity.models import Member, Organization, User
from probity.identity.passwords import Passwords
from probity.identity.roles import BuiltInRole
from probity.identity.sessions import store as session_store
from probity.kernel.clock import Clock
from probity.kernel.db import Database, Tx
from probity.kernel.ids import new_id
from probity.kernel.principal import OrgId, Principal, PrincipalKind, UserId, system_principal
from probity.kernel.secret import Secret

_SLUG_TRIES: Final = 5
_BOOTSTRAP: Final = "system:bootstrap"


async def next_number(tx: Tx, org_id: OrgId, kind: str) -> int:
    """Return the organization's next human number of a kind (`RUN`, `PRJ`, 2-5 capital letters), starting at 1.

    The counter's row stays locked until the transaction ends, so take the number late and keep the rest short.
    """
    return await store.next_number(tx, org_id, kind)


class IdentityService:
    def __init__(self, db: Database, clock: Clock, passwords: Passwords) -> None:
        self._db = db
        self._clock = clock
        self._passwords = passwords

    async def create_organization(self, name: str, *, slug: str | None = None, actor: str = "system") -> Organization:
        """Make an organization with its built-in roles. Without a `slug`, one is made of the name.

        Raises:
            SlugTaken: the given short name is in use.
        """
        for attempt in range(_SLUG_TRIES):
            short = slug or rules.slug_of(name) + (f"-{secrets.token_hex(3)}" if attempt else "")
            organization = Organization(id=OrgId(new_id()), slug=short, name=name.strip()[:100], created_at=self._clock.now())
            try:
                async with self._db.transaction(_server(organization.id, actor)) as tx:
                    await self._insert_organization(tx, organization, actor)
            except SlugTaken:
                if slug is not None or attempt == _SLUG_TRIES - 1:
                    raise
            else:
                return organization
        raise AssertionError("unreachable")

    async def create_user(
        self,
        principal: Principal,
        email: str,
        password: Secret,
        *,
        display_name: str | None = None,
        role: str = BuiltInRole.VIEWER,
        is_owner: bool = False,
    ) -> User:
        """Add a person to the principal's organization, with a role that holds everywhere in it.

        Raises:
            InvalidEmail, WeakPassword, EmailTaken, RoleNotFound: what was given cannot be used.
            PermissionMissing: the caller may not manage users.
        """
        if principal.kind is not PrincipalKind.SYSTEM:
            principal.require("settings:users:manage")
        address = rules.normal_email(email)
        rules.check_password(password.reveal())
        user = _new_user(address, display_name, self._clock.now())
        password_hash = await self._passwords.hash(password)
        async with self._db.transaction(principal) as tx:
            await self._insert_user(tx, principal, user, password_hash, role, is_owner=is_owner)
            await audit.record(tx, principal, Action.USER_CREATE, f"user:{user.id}", metadata={"email": address, "role": role})
        return user

    async def list_members(self, principal: Principal, *, after: tuple[datetime, UserId] | None = None, limit: int = 50) -> list[Member]:
        """Return people of the organization, oldest membership first."""
        principal.require("settings:users:manage")
        async with self._db.transaction(principal) as tx:
            return await store.list_members(tx, principal.org_id, after=after, limit=limit)

    async def user_names(self, principal: Principal, ids: Iterable[UserId]) -> dict[UserId, str]:
        """Return the e-mail addresses of those people that the principal's organizations know. Source: secrets.md §6.13."""
        wanted = sorted(set(ids))
        if not wanted:
            return {}
        async with self._db.transaction(principal) as tx:
            return await store.user_names(tx, wanted)

    async def reset_password(self, email: str, password: Secret) -> User:
        """Set somebody's password from the server's own command line: unlocks the account and ends every session.

        Keys stay: they were made on purpose, are listed, and are revoked one by one.

        Raises:
            UserNotFound: nobody has this address.
            WeakPassword: says what is missing.
        """
        rules.check_operators_password(password.reveal())
        found = await store.find_user_orgs_all_tenants(self._db, rules.normal_email(email))
        if found is None:
            raise UserNotFound
        user_id, org_ids = found
        password_hash = await self._passwords.hash(password)
        now = self._clock.now()
        principal = system_principal(*org_ids)
        async with self._db.transaction(principal) as tx:
            await store.set_password(tx, user_id, password_hash, now)
            count = await session_store.revoke_all(tx, user_id, now)
            for org_id in org_ids:
                await audit.record(tx, principal, Action.USER_PASSWORD_RESET, f"user:{user_id}", org_id=org_id)
                await audit.record(tx, principal, Action.SESSION_REVOKE_ALL, f"user:{user_id}", org_id=org_id, metadata={"count": count})
            return await store.get_user(tx, user_id)

    async def bootstrap(self, email: str, password: Secret, *, organization: str = "Default") -> User | None:
        """Make the first organization and its administrator. Does nothing and returns None when there is anybody already.

        Safe to call from several servers at once: the e-mail address is unique, so one of them makes the account.

        Raises:
            InvalidEmail, WeakPassword: what was given cannot be used.
        """
        if await store.has_users_all_tenants(self._db):
            return None
        address = rules.normal_email(email)
        rules.check_operators_password(password.reveal())
        now = self._clock.now()
        user = _new_user(address, None, now)
        password_hash = await self._passwords.hash(password)
        home = Organization(id=OrgId(new_id()), slug=rules.slug_of(organization), name=organization, created_at=now)
        principal = _server(home.id, _BOOTSTRAP)
        try:
            async with self._db.transaction(principal) as tx:
                await self._insert_organization(tx, home, _BOOTSTRAP)
                await self._insert_user(tx, principal, user, password_hash, BuiltInRole.ADMIN, is_owner=True)
                await audit.record(
                    tx, principal, Action.AUTH_BOOTSTRAP_ADMIN, f"user:{user.id}", metadata={"email": address, "role": BuiltInRole.ADMIN}
                )
        except SlugTaken:
            # Another server was first, in the moment between the look and the insert.
            return None
        return user

    async def _insert_organization(self, tx: Tx, organization: Organization, actor: str) -> None:
        await store.insert_organization(tx, organization)
        seeds = {role.value: (roles.ABOUT[role], sorted(roles.BUILT_IN[role])) for role in BuiltInRole}
        await store.seed_roles(tx, organization.id, seeds)
        await audit.record(
            tx,
            _server(organization.id, actor),
            Action.ORGANIZATION_CREATE,
            f"organization:{organization.id}",
            metadata={"name": organization.name, "slug": organization.slug},
        )

    async def _insert_user(self, tx: Tx, principal: Principal, user: User, password_hash: str, role: str, *, is_owner: bool) -> None:
        await store.insert_user(tx, user, password_hash)
        await store.insert_membership(tx, principal.org_id, user.id, is_owner=is_owner, now=user.created_at)
        await store.insert_grant(tx, principal.org_id, user.id, role, granted_by=principal.actor, now=user.created_at)


def _new_user(email: str, display_name: str | None, now: datetime) -> User:
    return User(
        id=UserId(new_id()),
        email=email,
        display_name=(display_name or "").strip()[:100] or email.partition("@")[0][:100],
        avatar_url=None,
        # Whoever may add people vouches for the address.
        email_verified_at=now,
        disabled_at=None,
        last_login_at=None,
        created_at=now,
    )


def _server(org_id: OrgId, actor: str) -> Principal:
    principal = system_principal(org_id)
    return (
        principal
        if actor == "system"
        else Principal(
            kind=principal.kind,
            actor=actor,
            display=principal.display,
            org_ids=principal.org_ids,
            active_org=principal.active_org,
            credential=principal.credential,
        )
    )
