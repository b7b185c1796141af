"""A click group whose commands are imported when they are named."""

import importlib
from collections.abc import Mapping

import click


class LazyGroup(click.Group):
    """A group over a table of `name -> ("module:attribute", help)`.

    Listing the commands imports none of them. A command whose module needs a part that is not
    installed (`probity serve` beside a lone agent) is refused with the extra to install.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        commands_table: Mapping[str, tuple[str, str]],
        **attributes: object,
    ) -> None:
        super().__init__(name, **attributes)  # type: ignore[arg-type]  # click's own keyword arguments
        self._table = commands_table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._table:
            return None
        target, _ = self._table[cmd_name]
        return load_command(cmd_name, target)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._table[name][1]) for name in self.list_commands(ctx)])


def load_command(name: str, target: str) -> click.Command:
    """Import `module:attribute`; a missing third-party package becomes a usage error."""
    module_name, _, attribute = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "probity":
            raise
        raise click.UsageError(
            f"`probity {name}` needs the package {error.name!r}, which is not installed; "
            "install the part it belongs to: probity[agent], probity[client], probity[server] or, for `probity up`, probity[up]"
        ) from error
    command = getattr(module, attribute)
    if not isinstance(command, click.Command):
        raise TypeError(f"{target} is not a command")
    return command
