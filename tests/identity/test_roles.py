"""The tables of the contracts, written out again as they are printed there."""

import pytest

from probity.identity import roles
from probity.identity.models import Grant
from probity.identity.roles import BUILT_IN, KEY_SCOPES, BuiltInRole, KeyScope

# validation.md §2.2: admin, operator, analyst, explorer, key read, key read-write
ACHILLES = """
tests:library:read           x x x x x x
tests:builds:read            x x . . x x
tests:builds:create          x x . . . x
tests:builds:delete          x . . . . .
tests:sync:execute           x x . . . x
analytics:dashboards:read    x x x x x x
analytics:settings:read      x x x x x x
analytics:settings:write     x . . . . .
analytics:index:create       x . . . . .
analytics:executions:archive x . . . . .
analytics:risk:read          x x x . x x
analytics:risk:write         x x . . . x
endpoints:agents:read        x x . . x x
endpoints:agents:write       x x . . . x
endpoints:agents:delete      x . . . . .
endpoints:tokens:create      x x . . . x
endpoints:tokens:delete      x . . . . .
endpoints:tasks:read         x x x . x x
endpoints:tasks:create       x x . . . x
endpoints:tasks:cancel       x x . . . x
endpoints:tasks:delete       x . . . . .
endpoints:tasks:notes        x x x . . x
endpoints:tasks:command      x . . . . .
endpoints:schedules:read     x x . . x x
endpoints:schedules:create   x x . . . x
endpoints:schedules:write    x x . . . x
endpoints:schedules:delete   x . . . . .
endpoints:versions:read      x x . . x x
endpoints:versions:create    x x . . . x
endpoints:versions:delete    x . . . . .
settings:platform:read       x x x x x x
settings:platform:write      x . . . . .
settings:certificates:read   x x . . x x
settings:certificates:create x x . . . x
settings:certificates:delete x . . . . .
settings:users:manage        x . . . . .
integrations:read            x x . . x x
integrations:write           x . . . . .
"""

# secrets.md §2.9
BRIDGE = {
    "admin": "role.edit user_role.edit team.edit workflow.edit policy.edit integration.edit agent.mint agent.revoke agent.list secret.list "
    "secret.request secret.approve audit.read",
    "approver": "secret.list secret.approve audit.read",
    "developer": "secret.list secret.request audit.read secret.reveal.direct agent.list",
    "value_provider": "secret.value.provide",
    "security_approver": "secret.security.approve",
    "provider_connection_binder": "integration.bind",
    "policy_author": "policy.author",
    # Names of other contracts. Whoever may make agents there may do so here, and agents are seen by whoever runs tests.
    "operator": "agent.list agent.mint",
    "qa_lead": "agent.list",
    "viewer": "agent.list",
    "analyst": "",
    "explorer": "",
}

WORK = "runs:read projects:read runs:write runs:execute runs:abort projects:write jobs:create"
OWN = {
    "admin": WORK + " org:settings",
    "operator": WORK,
    "qa_lead": WORK,
    "developer": WORK,
    "analyst": "runs:read projects:read",
    "approver": "runs:read projects:read",
    "viewer": "runs:read projects:read",
    "explorer": "runs:read projects:read",
}


def achilles_table() -> list[tuple[str, list[bool]]]:
    lines = [line.split() for line in ACHILLES.strip().splitlines()]
    return [(line[0], [mark == "x" for mark in line[1:]]) for line in lines]


@pytest.mark.parametrize(("permission", "marks"), achilles_table())
def test_the_achilles_table_holds(permission: str, marks: list[bool]) -> None:
    holders = [*(BUILT_IN[BuiltInRole(name)] for name in ("admin", "operator", "analyst", "explorer")), *KEY_SCOPES.values()]

    assert [permission in holder for holder in holders] == marks


def test_the_achilles_table_is_complete() -> None:
    assert {permission for permission, _ in achilles_table()} == roles.ACHILLES_PERMISSIONS
    assert len(roles.ACHILLES_PERMISSIONS) == 38
    assert len(KEY_SCOPES[KeyScope.READ] & roles.ACHILLES_PERMISSIONS) == 12


@pytest.mark.parametrize("role", BuiltInRole)
def test_the_bridge_table_holds(role: BuiltInRole) -> None:
    assert BUILT_IN[role] & frozenset(roles.BRIDGE_PERMISSIONS) == frozenset(BRIDGE[role].split())


@pytest.mark.parametrize("role", BuiltInRole)
def test_our_own_permissions_are_given_as_written_here(role: BuiltInRole) -> None:
    assert BUILT_IN[role] & roles.OWN_PERMISSIONS == frozenset(OWN.get(role, "").split())


def test_roles_hold_only_permissions_that_exist() -> None:
    assert all(held <= roles.PERMISSIONS for held in [*BUILT_IN.values(), *KEY_SCOPES.values()])
    assert set(roles.ABOUT) == set(BuiltInRole)


def test_a_read_write_key_is_an_operator_and_cannot_manage_keys() -> None:
    assert KEY_SCOPES[KeyScope.READ_WRITE] == BUILT_IN[BuiltInRole.OPERATOR]
    assert "settings:users:manage" not in KEY_SCOPES[KeyScope.READ_WRITE]


def test_scoped_grants_do_not_count_everywhere() -> None:
    grants = [
        Grant(role="admin", permissions=("agent.mint",), scope={"project_id": "x"}),
        Grant(role="viewer", permissions=("runs:read",), scope={}),
    ]

    assert roles.global_permissions(grants) == {"runs:read"}
    assert roles.leading_role(grants) == "viewer"


@pytest.mark.parametrize(
    ("role", "sentri", "agnox", "achilles"),
    [
        ("admin", "admin", "admin", "admin"),
        ("operator", "qa_lead", "developer", "operator"),
        ("qa_lead", "qa_lead", "developer", "operator"),
        ("developer", "qa_lead", "developer", "operator"),
        ("analyst", "viewer", "viewer", "analyst"),
        ("viewer", "viewer", "viewer", "explorer"),
        (None, "viewer", "viewer", "explorer"),
        ("a role of their own", "viewer", "viewer", "explorer"),
    ],
)
def test_each_contract_sees_a_role_that_it_knows(role: str | None, sentri: str, agnox: str, achilles: str) -> None:
    assert (roles.sentri_role(role), roles.agnox_role(role), roles.achilles_role(role)) == (sentri, agnox, achilles)
