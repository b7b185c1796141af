"""Print docs/permissions.md from the tables of roles: `python tools/permission_reference.py > docs/permissions.md`."""

from probity.identity.roles import ABOUT, BUILT_IN, KEY_SCOPES, PERMISSIONS, BuiltInRole

HEAD = """# Roles and permissions

A person holds roles in an organization, and may do what any of them allows. The built-in roles below reproduce the tables of the contracts
that Probity speaks; where two contracts use one name, the role holds what both give it. A key (`pa_…`) holds the permissions of its scope
that its maker held, cut to what the maker still holds when it is used.

| Role | Is for somebody who |
|---|---|
"""


def reference() -> str:
    """Return the whole page."""
    about = "".join(f"| `{role}` | {ABOUT[role]} |\n" for role in BuiltInRole)
    holders = [*BUILT_IN.values(), *KEY_SCOPES.values()]
    names = [*(f"`{role}`" for role in BUILT_IN), *(f"key `{scope}`" for scope in KEY_SCOPES)]
    head = f"\n## Which role holds what\n\n| Permission | {' | '.join(names)} |\n|---|{'---|' * len(names)}\n"
    rows = (f"| `{name}` | {' | '.join('yes' if name in held else '' for held in holders)} |\n" for name in sorted(PERMISSIONS))
    return HEAD + about + head + "".join(rows)


if __name__ == "__main__":
    print(reference(), end="")
