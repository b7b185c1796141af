"""The state of a list is its address: filters and page are read from the query and written back to it."""

from collections.abc import Sequence
from urllib.parse import urlencode

import msgspec


class ListQuery(msgspec.Struct, frozen=True):
    """The filters of a list page. Empty means: not filtered by this."""

    path: str
    state: str = ""
    project: str = ""
    text: str = ""
    cursor: str = ""

    @property
    def is_filtered(self) -> bool:
        return bool(self.state or self.project or self.text)

    def kept(self) -> tuple[tuple[str, str], ...]:
        """Return what the filter form must carry along besides its own fields."""
        return (("state", self.state),) if self.state else ()

    def href(self, **changed: str) -> str:
        """Return the address of this list with `changed` filters; a changed filter starts at the first page."""
        values = {"state": self.state, "project": self.project, "q": self.text} | changed
        query = urlencode({name: value for name, value in values.items() if value})
        return f"{self.path}?{query}" if query else self.path


class Choice(msgspec.Struct, frozen=True):
    label: str
    href: str
    current: bool


def state_choices(query: ListQuery, states: Sequence[tuple[str, str]]) -> tuple[Choice, ...]:
    """Return a chip for each `(value, label)`; the first is the one without a filter."""
    return tuple(Choice(label, query.href(state=value), query.state == value) for value, label in states)
