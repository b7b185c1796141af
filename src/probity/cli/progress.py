"""Progress on standard error: a line for each thing that happened, and on a terminal a spinner for what is happening."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Final

_MARKS: Final[Mapping[str, tuple[str, str]]] = {
    "passed": ("✓", "green"),
    "failed": ("✗", "red"),
    "error": ("✗", "red"),
    "skipped": ("-", "yellow"),
    "xfailed": ("-", "yellow"),
    "xpassed": ("!", "yellow"),
}


class Progress:
    """Says what is going on; standard output stays free for the command's result."""

    def __init__(self) -> None:
        # Imported here because it costs more than the rest of a short command together.
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def step(self, doing: str) -> Iterator[None]:
        """Show `doing` while the block runs, and how long it took when it ends well."""
        started = time.monotonic()
        spinner = self._console.status(doing) if self._console.is_terminal else contextlib.nullcontext()
        with spinner:
            yield
        self._console.print(f"[green]✓[/] {doing} [dim]{time.monotonic() - started:.1f} s[/]")

    def result(self, outcome: str, name: str, duration_ms: float) -> None:
        from rich.markup import escape

        mark, colour = _MARKS.get(outcome, ("?", "yellow"))
        self._console.print(f"  [{colour}]{mark}[/] {escape(name)} [dim]{duration_ms:.0f} ms[/]")

    def say(self, text: str) -> None:
        from rich.markup import escape

        self._console.print(escape(text))

    def panel(self, title: str, rows: Mapping[str, str]) -> None:
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        if not self._console.is_terminal:
            sys.stderr.write("\n".join([title, *(f"  {name:<10}{value}" for name, value in rows.items())]) + "\n")
            return
        grid = Table.grid(padding=(0, 2))
        for name, value in rows.items():
            grid.add_row(Text(name, style="dim"), Text(value, style="bold"))
        self._console.print(Panel(grid, title=title, expand=False, border_style="green"))
