"""Sign-in, sign-out and who is signed in."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from probity.audit import service as audit
from probity.audit.models import Action, Status
from probity.identity import rules as identity_rules
from probity.identity.errors import InvalidCredentials, MissingCredentials, NoOrganization, UserNotFound
from probity.identity.passwords import Passwords
from probity.identity.sessions import rules, store, tokens
from probity.identity.sessions.models import Account, Caller, KnownUser, LiveSession, Session, SessionId, SessionKind, SignedIn
from probity.identity.sessions.tokens import CredentialForm
from probity.kernel.clock import Clock
from probity.kernel.db import Database, Tx
from probity.kernel.errors import Unavailable
from probity.kernel.ids import new_id
from probity.kernel.limits import Policy
from probity.kernel.principal import ANONYMOUS, OrgId, Principal, PrincipalKind
from probity.kernel.secret import Secret

# Of every way to sign in with a password. Sources: secrets.md §4, webtest.md §4: a shared route takes the laxer burst; the lock after
# five wrong passwords stands behind it.
SIGN_IN: Final = Policy("auth:login", limit=30, window_s=60, quiet=True)
# Secrets Bridge's tokens of one person are equal when issued in the same second; each further one is dated a second back.
_SAME_SECOND_TOKENS: Final = 120
_KEPT_AFTER_EXPIRY: Final = timedelta(days=7)
_SWEEP_BATCH: Final = 1000


class SignInService:
    def __init__(self, db: Database, clock: Clock, passwords: Passwords, jwt_key: bytes, *, jwt_ttl_s: int = 8 * 3600) -> None:
        self._db = db
        self._clock = clock
        self._passwords = passwords
        self._key = jwt_key
        self._jwt_ttl = min(timedelta(seconds=jwt_ttl_s), rules.ABSOLUTE)
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}

    async def sign_in(
        self, email: str, password: Secret, *, kind: SessionKind, caller: Caller, correlation_id: UUID | None = None
    ) -> SignedIn:
        """Check a password and open a session.

        Every refusal looks the same and takes as long, whether the account exists or not, and leaves an audit event.

        Raises:
            MissingCredentials: the address or the password is empty.
            InvalidCredentials: unknown, disabled or locked account, or a wrong password.
            NoOrganization: right password of somebody who belongs to no organization.
            SignInBusy: too many passwords are waiting to be checked.
        """
        correlation_id = correlation_id or uuid4()
        address = email.strip().lower()[:254]
        if not address or not password:
            await self._note_refusal_all_tenants("missing_fields", {"email_length": len(email)}, correlation_id)
            raise MissingCredentials
        # One guess at a time per account, so that parallel guesses meet the lock like serial ones.
        async with self._turn(address):
            known = None if "\x00" in address else await store.find_known_user_all_tenants(self._db, address)
            matches = await self._passwords.verify(known.password_hash if known else None, password)
            if known is None:
                await self._note_refusal_all_tenants("user_not_found", {"email_length": len(email)}, correlation_id)
                raise InvalidCredentials
            if matches and not known.memberships:
                await self._note_refusal_all_tenants("no_organization", {}, correlation_id)
                raise NoOrganization
            if not matches:
                await self._refuse(known, correlation_id, matched=False)
                raise InvalidCredentials
            return await self._open(known, password, kind, caller, correlation_id)

    async def find_session(self, form: CredentialForm, text: str) -> LiveSession | None:
        """Return the live session that a presented credential opens, or None. Its use is noted at most once a minute."""
        credential_hash = self.credential_hash(form, text)
        if credential_hash is None:
            return None
        found = await store.find_session_all_tenants(self._db, credential_hash)
        if found is None:
            return None
        stored_form, live = found
        now = self._clock.now()
        # Either contract's signed token may come by cookie or header; an opaque one only ever is what it was issued as.
        if (stored_form is CredentialForm.COOKIE) != (form is CredentialForm.COOKIE) or not rules.is_live(live.session, stored_form, now):
            return None
        if rules.should_slide(live.session, stored_form, now):
            await self._slide(live, now)
        return live

    async def sign_out(self, credentials: Iterable[tuple[CredentialForm, str]], *, correlation_id: UUID | None = None) -> int:
        """Revoke every session that one of these credentials belongs to; unknown and dead ones are skipped. Returns how many ended."""
        ended = 0
        for form, text in credentials:
            credential_hash = self.credential_hash(form, text)
            found = None if credential_hash is None else await store.find_session_all_tenants(self._db, credential_hash)
            if found is not None and await self._end(found[1], correlation_id or uuid4()):
                ended += 1
        return ended

    async def sign_out_cookie(self, cookie: str, *, correlation_id: UUID | None = None) -> bool:
        """Revoke the session that our own pages' cookie opens; False when it opens none."""
        return await self.sign_out([(CredentialForm.COOKIE, cookie)], correlation_id=correlation_id) > 0

    async def account(self, principal: Principal) -> Account:
        """Return the signed-in person.

        Raises:
            UserNotFound: the caller is not a person, or is gone.
        """
        if principal.user_id is None:
            raise UserNotFound
        async with self._db.transaction(principal) as tx:
            account = await store.get_account(tx, principal.user_id, principal.active_org)
        if account is None:
            raise UserNotFound
        return account

    async def sweep(self) -> int:
        """Delete sessions that ended a week ago; the trail keeps what they did."""
        total = 0
        while (count := await store.delete_expired_all_tenants(self._db, self._clock.now() - _KEPT_AFTER_EXPIRY, batch=_SWEEP_BATCH)) > 0:
            total += count
        return total

    def credential_hash(self, form: CredentialForm, text: str) -> bytes | None:
        """Return what a credential is found by, or None when it cannot be one of ours."""
        if form is CredentialForm.COOKIE:
            return tokens.cookie_hash(text)
        return tokens.jwt_hash(text) if tokens.is_genuine(self._key, text, self._clock.now()) else None

    async def _open(self, known: KnownUser, password: Secret, kind: SessionKind, caller: Caller, correlation_id: UUID) -> SignedIn:
        assert known.password_hash is not None
        upgraded = await self._passwords.hash(password) if self._passwords.is_outdated(known.password_hash) else None
        now = self._clock.now()
        principal = _principal(known)
        async with self._db.transaction(principal) as tx:
            present = await store.lock_known_user(tx, known.user.id)
            # What was checked must still hold: a reset, a lock or a removal may have come in between.
            refused = present is None or present.password_hash != known.password_hash or _refusal(present, now) is not None
            if not refused:
                await store.save_sign_in(tx, known.user.id, now, upgraded)
                return await self._open_session(tx, principal, known, kind, caller, correlation_id)
        await self._refuse(known, correlation_id, matched=True)
        raise InvalidCredentials

    async def _open_session(
        self, tx: Tx, principal: Principal, known: KnownUser, kind: SessionKind, caller: Caller, correlation_id: UUID
    ) -> SignedIn:
        session = self._new_session(known, principal.active_org, kind)
        await store.insert_session(tx, session, Caller(caller.ip, (caller.user_agent or "")[:500] or None))
        raw = secrets.token_bytes(tokens.TOKEN_BYTES)
        cookie = tokens.encode(raw)
        await self._add(tx, session, CredentialForm.COOKIE, cookie)
        bridge_token, bridge_expires_at = await self._add_bridge_token(tx, session, known)
        sentri_token = tokens.sentri_jwt(
            self._key,
            user_id=known.user.id,
            email=known.user.email,
            name=known.user.display_name,
            # A version 4 UUID, as the contract says; the session is found by the hash.
            token_id=uuid4(),
            workspace_id=principal.active_org,
            issued_at=session.created_at,
            expires_at=session.expires_at,
        )
        await self._add(tx, session, CredentialForm.SENTRI_JWT, sentri_token)
        await _note_sign_in(tx, principal, known, session, caller, correlation_id)
        return SignedIn(
            session=session,
            user=known.user,
            memberships=known.memberships,
            cookie=Secret(cookie),
            bridge_token=Secret(bridge_token),
            bridge_expires_at=bridge_expires_at,
            sentri_token=Secret(sentri_token),
        )

    def _new_session(self, known: KnownUser, active_org: OrgId | None, kind: SessionKind) -> Session:
        now = self._clock.now()
        return Session(
            id=SessionId(new_id()),
            user_id=known.user.id,
            kind=kind,
            active_org_id=active_org,
            created_at=now,
            last_used_at=now,
            expires_at=now + rules.ABSOLUTE,
            idle_expires_at=now + rules.IDLE,
            mfa_at=None,
            mfa_pending=False,
            revoked_at=None,
        )

    async def _add(self, tx: Tx, session: Session, form: CredentialForm, text: str) -> bool:
        credential_hash = tokens.cookie_hash(text) if form is CredentialForm.COOKIE else tokens.jwt_hash(text)
        assert credential_hash is not None
        return await store.add_credential(tx, session.id, form, credential_hash)

    async def _add_bridge_token(self, tx: Tx, session: Session, known: KnownUser) -> tuple[str, datetime]:
        for back in range(_SAME_SECOND_TOKENS):
            issued_at = session.created_at - timedelta(seconds=back)
            expires_at = (issued_at + self._jwt_ttl).replace(microsecond=0)
            token = tokens.bridge_jwt(
                self._key,
                user_id=known.user.id,
                email=known.user.email,
                name=known.user.display_name,
                issued_at=issued_at,
                expires_at=expires_at,
            )
            if await self._add(tx, session, CredentialForm.BRIDGE_JWT, token):
                return token, expires_at
        raise Unavailable("this account signs in too often at the moment; try again in a minute")

    async def _refuse(self, known: KnownUser, correlation_id: UUID, *, matched: bool) -> None:
        """Note a refused sign-in of an existing account; a wrong password counts towards the lock."""
        now = self._clock.now()
        principal = _principal(known)
        org_id = principal.active_org
        if org_id is None:
            await self._note_refusal_all_tenants("wrong_password", {}, correlation_id)
            return
        async with self._db.transaction(principal) as tx:
            present = await store.lock_known_user(tx, known.user.id)
            reason, facts = (_refusal(present, now) if present else None) or ("wrong_password", {})
            if present is not None and reason == "wrong_password" and not matched:
                count, locked_until = identity_rules.failures_after(present.failed_login_count, now)
                await store.save_failures(tx, known.user.id, count, locked_until)
                facts = {"failed_login_count": count}
                if locked_until is not None:
                    await _note_lockout(tx, known, org_id, count, locked_until, correlation_id)
            await audit.record(
                tx,
                ANONYMOUS,
                Action.AUTH_LOGIN,
                "auth:login",
                org_id=org_id,
                status=Status.DENIED,
                correlation_id=correlation_id,
                metadata={"error_kind": reason, **facts},
            )

    async def _note_refusal_all_tenants(self, reason: str, facts: Mapping[str, object], correlation_id: UUID) -> None:
        """Note a refused sign-in that belongs to no organization, in the installation's own trail."""
        async with self._db.system() as tx:
            await audit.record(
                tx,
                ANONYMOUS,
                Action.AUTH_LOGIN,
                "auth:login",
                status=Status.DENIED,
                correlation_id=correlation_id,
                metadata={"error_kind": reason, **facts},
            )

    async def _slide(self, live: LiveSession, now: datetime) -> None:
        principal = rules.speaker(live)
        async with self._db.transaction(principal) as tx:
            await store.slide(
                tx, live.session.id, now=now, seen_before=now - rules.SLIDE_EVERY / 2, idle_expires_at=rules.slid(live.session, now)
            )

    async def _end(self, live: LiveSession, correlation_id: UUID) -> bool:
        principal = rules.speaker(live)
        async with self._db.transaction(principal) as tx:
            ended = bool(await store.revoke(tx, [live.session.id], self._clock.now()))
            if ended and principal.active_org is not None:
                resource, facts = f"session:{live.session.id}", {"session_id": str(live.session.id)}
                await audit.record(tx, principal, Action.SESSION_REVOKE, resource, correlation_id=correlation_id, metadata=facts)
                await audit.record(tx, principal, Action.AUTH_LOGOUT, principal.actor, correlation_id=correlation_id)
        return ended

    @asynccontextmanager
    async def _turn(self, address: str) -> AsyncIterator[None]:
        lock, waiting = self._turns.get(address, (asyncio.Lock(), 0))
        self._turns[address] = (lock, waiting + 1)
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._turns[address]
            if waiting == 1:
                del self._turns[address]
            else:
                self._turns[address] = (lock, waiting - 1)


def _refusal(known: KnownUser, now: datetime) -> tuple[str, dict[str, object]] | None:
    """Return why this account may not sign in even with the right password."""
    if known.user.disabled_at is not None:
        return "user_disabled", {}
    if known.locked_until is not None and now < known.locked_until:
        return "account_locked", {"locked_until": known.locked_until}
    return None


def _principal(known: KnownUser) -> Principal:
    """Return the person as the author of what their sign-in writes; without permissions, they have none yet."""
    active = rules.active_membership(known.memberships, None)
    return Principal(
        kind=PrincipalKind.USER,
        actor=f"user:{known.user.id}",
        display=known.user.display_name,
        org_ids=tuple(membership.org_id for membership in known.memberships),
        active_org=None if active is None else active.org_id,
        user_id=known.user.id,
    )


async def _note_sign_in(tx: Tx, principal: Principal, known: KnownUser, session: Session, caller: Caller, correlation_id: UUID) -> None:
    person, email = f"user:{known.user.id}", known.user.email
    opened = {
        "session_id": str(session.id),
        "expires_at": session.expires_at,
        "idle_expires_at": session.idle_expires_at,
        "ip": caller.ip,
        "user_agent": (caller.user_agent or "")[:500],
    }
    await audit.record(tx, principal, Action.AUTH_LOGIN, person, correlation_id=correlation_id, metadata={"email": email})
    # A local password is the way in that works when the identity provider does not; security teams watch for it by this name.
    break_glass = {"severity": "CRITICAL", "path": "local", "email": email}
    await audit.record(tx, principal, Action.BREAK_GLASS_LOGIN, person, correlation_id=correlation_id, metadata=break_glass)
    await audit.record(tx, principal, Action.SESSION_CREATE, f"session:{session.id}", correlation_id=correlation_id, metadata=opened)


async def _note_lockout(tx: Tx, known: KnownUser, org_id: OrgId, count: int, locked_until: datetime, correlation_id: UUID) -> None:
    await audit.record(
        tx,
        ANONYMOUS,
        Action.AUTH_LOCKOUT_APPLIED,
        f"user:{known.user.id}",
        org_id=org_id,
        status=Status.DENIED,
        correlation_id=correlation_id,
        metadata={
            "failed_login_count": count,
            "locked_until": locked_until,
            "threshold": identity_rules.LOCKOUT_THRESHOLD,
            "duration_seconds": int(identity_rules.LOCKOUT.total_seconds()),
        },
    )
