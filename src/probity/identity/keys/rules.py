"""Decisions about keys, without reading or writing."""

import hashlib
import re
from datetime import datetime
from typing import Final

from probity.identity import roles
from probity.identity.keys.models import ApiKey, LiveKey
from probity.identity.roles import KeyScope
from probity.kernel.principal import CredentialKind, Principal, PrincipalKind

PREFIX: Final = "pa_"
SHOWN: Final = 12
_FORM: Final = re.compile(r"pa_[0-9a-f]{64}")


def key_hash(key: str) -> bytes | None:
    """Return what a key is found by, SHA-256 over its text; None when it has not the form of one. Source: validation.md §2.3."""
    return hashlib.sha256(key.encode()).digest() if _FORM.fullmatch(key) else None


def granted(scope: KeyScope, maker: Principal) -> tuple[str, ...]:
    """Return the permissions of a new key: those of its scope that its maker holds."""
    return tuple(sorted(permission for permission in roles.KEY_SCOPES[scope] if maker.has(permission)))


def is_live(key: ApiKey, now: datetime) -> bool:
    return key.revoked_at is None and (key.expires_at is None or now < key.expires_at)


def speaker(live: LiveKey) -> Principal | None:
    """Return who a key speaks for: itself, with what it was given and its maker still holds; None when the maker left the organization."""
    key = live.key
    for membership in live.maker:
        if membership.org_id == key.org_id:
            return Principal(
                kind=PrincipalKind.API_KEY,
                actor=f"apikey:{key.id}",
                display=key.name,
                org_ids=(key.org_id,),
                active_org=key.org_id,
                permissions=frozenset(key.permissions) & roles.global_permissions(membership.grants),
                credential=CredentialKind.API_KEY,
            )
    return None
