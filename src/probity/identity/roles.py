"""Permissions, and the built-in roles that every organization starts with.

Each contract has a role table of its own; where two contracts use one name (`admin`, `developer`, `viewer`) the built-in role holds what
both give it. A role that only one contract knows holds that contract's set, and what the same work needs in our own routes.
Sources: secrets.md §2.8-2.9, validation.md §2.2, quality.md §2.6, webtest.md §2.6.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from probity.identity.models import Grant

# ProjectAchilles (validation.md §2.2): permission → the roles that hold it beside admin. a = analyst, e = explorer, o = operator.
_ACHILLES: Final[Mapping[str, str]] = {
    "tests:library:read": "oae",
    "tests:builds:read": "o",
    "tests:builds:create": "o",
    "tests:builds:delete": "",
    "tests:sync:execute": "o",
    "analytics:dashboards:read": "oae",
    "analytics:settings:read": "oae",
    "analytics:settings:write": "",
    "analytics:index:create": "",
    "analytics:executions:archive": "",
    "analytics:risk:read": "oa",
    "analytics:risk:write": "o",
    "endpoints:agents:read": "o",
    "endpoints:agents:write": "o",
    "endpoints:agents:delete": "",
    "endpoints:tokens:create": "o",
    "endpoints:tokens:delete": "",
    "endpoints:tasks:read": "oa",
    "endpoints:tasks:create": "o",
    "endpoints:tasks:cancel": "o",
    "endpoints:tasks:delete": "",
    "endpoints:tasks:notes": "oa",
    "endpoints:tasks:command": "",
    "endpoints:schedules:read": "o",
    "endpoints:schedules:create": "o",
    "endpoints:schedules:write": "o",
    "endpoints:schedules:delete": "",
    "endpoints:versions:read": "o",
    "endpoints:versions:create": "o",
    "endpoints:versions:delete": "",
    "settings:platform:read": "oae",
    "settings:platform:write": "",
    "settings:certificates:read": "o",
    "settings:certificates:create": "o",
    "settings:certificates:delete": "",
    "settings:users:manage": "",
    "integrations:read": "o",
    "integrations:write": "",
}
ACHILLES_PERMISSIONS: Final = frozenset(_ACHILLES)


def _achilles(letter: str) -> frozenset[str]:
    return frozenset(permission for permission, holders in _ACHILLES.items() if letter in holders)


# Secrets Bridge (secrets.md §2.8), in the order of its catalogue.
BRIDGE_PERMISSIONS: Final[tuple[str, ...]] = (
    "role.edit",
    "user_role.edit",
    "team.edit",
    "workflow.edit",
    "policy.edit",
    "policy.author",
    "agent.mint",
    "agent.revoke",
    "agent.list",
    "secret.request",
    "secret.approve",
    "secret.reveal.direct",
    "secret.value.provide",
    "secret.security.approve",
    "secret.list",
    "audit.read",
    "integration.edit",
    "integration.bind",
)
# Deliberately without policy.author, integration.bind, secret.value.provide, secret.security.approve and secret.reveal.direct.
_BRIDGE_ADMIN: Final = frozenset(BRIDGE_PERMISSIONS) - {
    "policy.author",
    "integration.bind",
    "secret.value.provide",
    "secret.security.approve",
    "secret.reveal.direct",
}

# Probity's own.
_LOOK: Final = frozenset({"runs:read", "projects:read"})
_WORK: Final = _LOOK | {"runs:write", "runs:execute", "runs:abort", "projects:write", "jobs:create"}
OWN_PERMISSIONS: Final = _WORK | {"org:settings"}

PERMISSIONS: Final = ACHILLES_PERMISSIONS | frozenset(BRIDGE_PERMISSIONS) | OWN_PERMISSIONS


class BuiltInRole(StrEnum):
    """Strongest first: the first that somebody holds is the one a contract with a single role per person shows."""

    ADMIN = "admin"
    OPERATOR = "operator"
    QA_LEAD = "qa_lead"
    DEVELOPER = "developer"
    ANALYST = "analyst"
    APPROVER = "approver"
    VIEWER = "viewer"
    EXPLORER = "explorer"
    VALUE_PROVIDER = "value_provider"
    SECURITY_APPROVER = "security_approver"
    PROVIDER_CONNECTION_BINDER = "provider_connection_binder"
    POLICY_AUTHOR = "policy_author"


_OPERATOR: Final = _achilles("o") | _WORK | {"agent.list", "agent.mint"}

BUILT_IN: Final[Mapping[BuiltInRole, frozenset[str]]] = {
    BuiltInRole.ADMIN: ACHILLES_PERMISSIONS | _BRIDGE_ADMIN | OWN_PERMISSIONS,
    BuiltInRole.OPERATOR: _OPERATOR,
    BuiltInRole.QA_LEAD: _WORK | {"agent.list"},
    BuiltInRole.DEVELOPER: _WORK | {"agent.list", "secret.list", "secret.request", "audit.read", "secret.reveal.direct"},
    BuiltInRole.ANALYST: _achilles("a") | _LOOK,
    BuiltInRole.APPROVER: _LOOK | {"secret.list", "secret.approve", "audit.read"},
    BuiltInRole.VIEWER: _LOOK | {"agent.list"},
    BuiltInRole.EXPLORER: _achilles("e") | _LOOK,
    BuiltInRole.VALUE_PROVIDER: frozenset({"secret.value.provide"}),
    BuiltInRole.SECURITY_APPROVER: frozenset({"secret.security.approve"}),
    BuiltInRole.PROVIDER_CONNECTION_BINDER: frozenset({"integration.bind"}),
    BuiltInRole.POLICY_AUTHOR: frozenset({"policy.author"}),
}

ABOUT: Final[Mapping[BuiltInRole, str]] = {
    BuiltInRole.ADMIN: "manages the organization, its people and its fleet",
    BuiltInRole.OPERATOR: "runs checks and enrols agents",
    BuiltInRole.QA_LEAD: "creates, runs and reviews tests",
    BuiltInRole.DEVELOPER: "runs tests and asks for secrets",
    BuiltInRole.ANALYST: "reads results and writes notes",
    BuiltInRole.APPROVER: "votes on requests",
    BuiltInRole.VIEWER: "reads",
    BuiltInRole.EXPLORER: "reads the library and dashboards",
    BuiltInRole.VALUE_PROVIDER: "fills requested secret values",
    BuiltInRole.SECURITY_APPROVER: "casts the security vote",
    BuiltInRole.PROVIDER_CONNECTION_BINDER: "binds provider connections to projects",
    BuiltInRole.POLICY_AUTHOR: "writes policies of covered projects",
}


class KeyScope(StrEnum):
    READ = "read"
    READ_WRITE = "read-write"


# `read` is every permission that ends in `:read`, and the fleet's, which Secrets Bridge spells otherwise.
KEY_SCOPES: Final[Mapping[KeyScope, frozenset[str]]] = {
    KeyScope.READ: frozenset(permission for permission in PERMISSIONS if permission.endswith(":read")) | {"agent.list"},
    KeyScope.READ_WRITE: _OPERATOR,
}

_SENTRI: Final[Mapping[str, str]] = {"admin": "admin", "operator": "qa_lead", "qa_lead": "qa_lead", "developer": "qa_lead"}
_AGNOX: Final[Mapping[str, str]] = {"admin": "admin", "operator": "developer", "qa_lead": "developer", "developer": "developer"}
_ACHILLES_ROLE: Final[Mapping[str, str]] = {
    "admin": "admin",
    "operator": "operator",
    "qa_lead": "operator",
    "developer": "operator",
    "analyst": "analyst",
}


def global_permissions(grants: Iterable[Grant]) -> frozenset[str]:
    """Return what `grants` allow everywhere in the organization; scoped grants are weighed where the object is known."""
    return frozenset(permission for grant in grants if not grant.scope for permission in grant.permissions)


def leading_role(grants: Iterable[Grant]) -> str | None:
    """Return the strongest built-in role held everywhere, else any other role by name, else None."""
    held = {grant.role for grant in grants if not grant.scope}
    for role in BuiltInRole:
        if role.value in held:
            return role.value
    return min(held, default=None)


def sentri_role(role: str | None) -> str:
    """Return the name that Sentri's clients know for `role`; whoever has no role of theirs reads."""
    return _SENTRI.get(role or "", "viewer")


def agnox_role(role: str | None) -> str:
    """Return the name that Agnox's clients know for `role`."""
    return _AGNOX.get(role or "", "viewer")


def achilles_role(role: str | None) -> str:
    """Return the name that ProjectAchilles' clients know for `role`."""
    return _ACHILLES_ROLE.get(role or "", "explorer")
