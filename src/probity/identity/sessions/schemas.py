"""What sign-in looks like on the wire, in the forms of two contracts and their union."""

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from probity.identity import roles
from probity.identity.models import Membership, User
from probity.identity.sessions import rules
from probity.identity.sessions.models import Account, SignedIn
from probity.kernel.clock import rfc3339_millis
from probity.kernel.errors import FieldError
from probity.kernel.http.failures import InvalidInput

_Text = Annotated[object, msgspec.Meta(extra_json_schema={"type": "string"})]


class SignInBody(msgspec.Struct):
    """An address and a password. Absent ones count as empty; the contracts disagree about other types, so the route judges them."""

    email: _Text = ""
    password: _Text = ""

    def texts(self) -> tuple[str, str]:
        """Return both as texts.

        Raises:
            InvalidInput: one or both are something else; names each.
        """
        wrong = tuple(
            FieldError(name, "Invalid input: expected string")
            for name, value in (("email", self.email), ("password", self.password))
            if not isinstance(value, str)
        )
        if wrong:
            raise InvalidInput("the body has wrong fields", fields=wrong)
        return str(self.email), str(self.password)


class Workspace(msgspec.Struct, rename="camel"):
    id: str
    name: str
    role: str
    is_owner: bool


class SentriUser(msgspec.Struct, rename="camel"):
    """Source: webtest.md §5.1."""

    id: str
    name: str
    email: str
    role: str
    avatar: str | None
    has_password: bool
    workspace_id: str | msgspec.UnsetType = msgspec.UNSET
    workspace_name: str | msgspec.UnsetType = msgspec.UNSET
    workspace_role: str | msgspec.UnsetType = msgspec.UNSET
    workspaces: list[Workspace] | msgspec.UnsetType = msgspec.UNSET


class Me(SentriUser, rename="camel", kw_only=True):
    created_at: str


class UnionUser(SentriUser, kw_only=True):
    """Sentri's user with Secrets Bridge's key added."""

    display_name: str = msgspec.field(name="display_name")


class BridgeUser(msgspec.Struct):
    id: str
    email: str
    display_name: str


class SentriSignedIn(msgspec.Struct):
    user: SentriUser


class BridgeSignedIn(msgspec.Struct):
    token: str
    expires_at: str
    user: BridgeUser


class UnionSignedIn(msgspec.Struct):
    token: str
    expires_at: str
    user: UnionUser


class Message(msgspec.Struct):
    message: str


def bridge_signed_in(signed_in: SignedIn) -> BridgeSignedIn:
    user = signed_in.user
    return BridgeSignedIn(
        token=signed_in.bridge_token.reveal(),
        expires_at=_seconds(signed_in.bridge_expires_at),
        user=BridgeUser(id=str(user.id), email=user.email, display_name=user.display_name),
    )


def sentri_signed_in(signed_in: SignedIn) -> SentriSignedIn:
    return SentriSignedIn(user=SentriUser(**_sentri_fields(_account(signed_in))))


def union_signed_in(signed_in: SignedIn) -> UnionSignedIn:
    return UnionSignedIn(
        token=signed_in.bridge_token.reveal(),
        expires_at=_seconds(signed_in.bridge_expires_at),
        user=UnionUser(**_sentri_fields(_account(signed_in)), display_name=signed_in.user.display_name),
    )


def me(account: Account) -> Me:
    return Me(**_sentri_fields(account), created_at=rfc3339_millis(account.user.created_at))


def _account(signed_in: SignedIn) -> Account:
    return Account(user=signed_in.user, has_password=True, active_org=signed_in.session.active_org_id, memberships=signed_in.memberships)


def _sentri_fields(account: Account) -> dict[str, Any]:
    user: User = account.user
    fields: dict[str, Any] = {
        "id": str(user.id),
        "name": user.display_name,
        "email": user.email,
        "role": "user",
        "avatar": user.avatar_url,
        "has_password": account.has_password,
    }
    active = rules.active_membership(account.memberships, account.active_org)
    if active is not None:
        fields |= {"workspace_id": str(active.org_id), "workspace_name": active.org_name, "workspace_role": _role(active)}
    if len(account.memberships) > 1:
        fields["workspaces"] = [
            Workspace(id=str(membership.org_id), name=membership.org_name, role=_role(membership), is_owner=membership.is_owner)
            for membership in account.memberships
        ]
    return fields


def _role(membership: Membership) -> str:
    return roles.sentri_role(roles.leading_role(membership.grants))


def _seconds(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
