"""What stands around every page: who is signed in, where they can go, which theme they chose."""

from typing import Final

import msgspec

from probity.kernel.principal import Principal

THEME_COOKIE: Final = "probity_theme"


class NavItem(msgspec.Struct, frozen=True):
    """An entry of the rail. `letter` follows `g` on the keyboard; without `permission` everybody signed in sees it."""

    key: str
    label: str
    href: str
    letter: str
    permission: str

    @property
    def icon(self) -> str:
        return self.key


NAVIGATION: Final = (
    NavItem("runs", "Runs", "/runs", "r", "runs:read"),
    NavItem("agents", "Agents", "/agents", "a", "agent.list"),
    NavItem("keys", "Keys", "/keys", "k", "settings:users:manage"),
)


class Shell(msgspec.Struct, frozen=True):
    title: str
    active: str
    theme: str
    user: str
    nav: tuple[NavItem, ...]

    @property
    def initials(self) -> str:
        words = self.user.partition("@")[0].replace(".", " ").split()
        return "".join(word[0] for word in words[:2]).upper() or "?"


def theme_of(cookies: dict[str, str]) -> str:
    """Return the theme that the reader chose, or nothing: then the system decides."""
    chosen = cookies.get(THEME_COOKIE, "")
    return chosen if chosen in ("light", "dark") else ""


def shell_for(principal: Principal, *, title: str, active: str, theme: str) -> Shell:
    """Return the shell of a page: the rail has only what this principal may open."""
    return Shell(
        title=title,
        active=active,
        theme=theme,
        user=principal.display,
        nav=tuple(item for item in NAVIGATION if principal.has(item.permission)),
    )
