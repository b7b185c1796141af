"""Making, listing and revoking keys, and finding out whose a presented one is."""

import secrets
from datetime import datetime, timedelta
from typing import Final

from probity.audit import service as audit
from probity.audit.models import Action
from probity.identity.keys import rules, store
from probity.identity.keys.errors import KeyExpiryInPast, KeyNeedsMaker, KeyNotFound
from probity.identity.keys.models import ApiKey, KeyId
from probity.identity.roles import KeyScope
from probity.kernel.clock import Clock
from probity.kernel.db import Database
from probity.kernel.ids import new_id
from probity.kernel.principal import ANONYMOUS, Principal
from probity.kernel.secret import Secret

KEY_PREFIX: Final = rules.PREFIX
_NOTE_USE_EVERY: Final = timedelta(seconds=60)


class KeyService:
    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def create(
        self, principal: Principal, name: str, scope: KeyScope, *, expires_at: datetime | None = None
    ) -> tuple[ApiKey, Secret]:
        """Make a key and return it with its text, which is shown this once. It never holds more than its maker.

        Raises:
            PermissionMissing: the caller may not manage keys; no key may.
            KeyExpiryInPast: it would be dead on arrival.
        """
        principal.require("settings:users:manage")
        if principal.user_id is None:
            raise KeyNeedsMaker("sign in as a person to make a key")
        now = self._clock.now()
        if expires_at is not None and expires_at <= now:
            raise KeyExpiryInPast("expires_at must be in the future")
        text = rules.PREFIX + secrets.token_hex(32)
        key = ApiKey(
            id=KeyId(new_id()),
            org_id=principal.org_id,
            user_id=principal.user_id,
            name=name,
            key_prefix=text[: rules.SHOWN],
            scope=scope,
            permissions=rules.granted(scope, principal),
            created_at=now,
            expires_at=expires_at,
            last_used_at=None,
            revoked_at=None,
        )
        key_hash = rules.key_hash(text)
        assert key_hash is not None
        async with self._db.transaction(principal) as tx:
            await store.insert_key(tx, key, key_hash)
            facts = {"name": name, "scope": scope, "key_prefix": key.key_prefix, "expires_at": expires_at}
            await audit.record(tx, principal, Action.KEY_CREATE, f"apikey:{key.id}", metadata=facts)
        return key, Secret(text)

    async def list_keys(self, principal: Principal) -> list[ApiKey]:
        """Return the organization's keys, newest first, revoked ones too."""
        principal.require("settings:users:manage")
        async with self._db.transaction(principal) as tx:
            return await store.list_keys(tx, principal.org_id)

    async def revoke(self, principal: Principal, key_id: KeyId) -> None:
        """Revoke a key; the next request with it is refused, on every server.

        Raises:
            KeyNotFound: there is none, or it is revoked already.
        """
        principal.require("settings:users:manage")
        async with self._db.transaction(principal) as tx:
            if not await store.revoke_key(tx, principal.org_id, key_id, self._clock.now()):
                raise KeyNotFound
            await audit.record(tx, principal, Action.KEY_REVOKE, f"apikey:{key_id}")

    async def authenticate(self, text: str) -> Principal:
        """Return whom a presented key speaks for, or ANONYMOUS. Its use is noted at most once a minute."""
        key_hash = rules.key_hash(text)
        live = None if key_hash is None else await store.find_key_all_tenants(self._db, key_hash)
        now = self._clock.now()
        if live is None or not rules.is_live(live.key, now):
            return ANONYMOUS
        principal = rules.speaker(live)
        if principal is None:
            return ANONYMOUS
        used = live.key.last_used_at
        if used is None or now - used >= _NOTE_USE_EVERY:
            async with self._db.transaction(principal) as tx:
                await store.note_use(tx, live.key.org_id, live.key.id, now=now, not_since=now - _NOTE_USE_EVERY)
        return principal
