"""Decisions about sessions, without reading or writing."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from probity.identity import roles
from probity.identity.models import Membership
from probity.identity.sessions.models import LiveSession, Session
from probity.identity.sessions.tokens import CredentialForm
from probity.kernel.principal import CredentialKind, OrgId, Principal, PrincipalKind

ABSOLUTE: Final = timedelta(hours=8)
IDLE: Final = timedelta(minutes=30)
# Sliding is a write; once a minute is often enough for a limit of thirty.
SLIDE_EVERY: Final = timedelta(minutes=1)


def is_live(session: Session, form: CredentialForm, now: datetime) -> bool:
    """Return whether a credential of this session still opens anything. Only the opaque cookie goes stale by idling.

    Sources: secrets.md §2.2-2.3, webtest.md §2.2.
    """
    if session.revoked_at is not None or now >= session.expires_at or session.mfa_pending:
        return False
    return form is not CredentialForm.COOKIE or now < session.idle_expires_at


def should_slide(session: Session, form: CredentialForm, now: datetime) -> bool:
    """Return whether this use is worth writing down."""
    return form is CredentialForm.COOKIE and now - session.last_used_at >= SLIDE_EVERY


def slid(session: Session, now: datetime) -> datetime:
    """Return until when the session may idle after a use at `now`."""
    return min(now + IDLE, session.expires_at)


def active_membership(memberships: Sequence[Membership], wanted: OrgId | None) -> Membership | None:
    """Return the membership a request acts in: the wanted one if it still exists, else the first; owned ones come first, then the oldest.

    Source: webtest.md §2.6.
    """
    for membership in memberships:
        if membership.org_id == wanted:
            return membership
    return min(memberships, key=lambda membership: (not membership.is_owner, membership.joined_at, membership.org_id), default=None)


def speaker(live: LiveSession, *, credential: CredentialKind = CredentialKind.NONE, cookie: str | None = None) -> Principal:
    """Return who a session speaks for; `cookie` is the name of the cookie that carried it."""
    session, user, memberships = live.session, live.user, live.memberships
    active = active_membership(memberships, session.active_org_id)
    grants = () if active is None else active.grants
    return Principal(
        kind=PrincipalKind.USER,
        actor=f"user:{user.id}",
        display=user.display_name,
        org_ids=tuple(membership.org_id for membership in memberships),
        active_org=None if active is None else active.org_id,
        permissions=roles.global_permissions(grants),
        role=roles.leading_role(grants),
        credential=credential,
        user_id=user.id,
        session_id=session.id,
        cookie=cookie,
        mfa_at=session.mfa_at,
    )
