"""The `probity` command.

Nothing here imports a server, a database driver or a table renderer: each noun lives in its own
module, loaded when it is named, so that `probity --version` and the agent start at once.
"""

import os
import sys
from collections.abc import Sequence

import click

from probity import __version__
from probity.cli import lifeline
from probity.cli.errors import exit_code_of
from probity.cli.lazy import LazyGroup

# noun or verb on the command line -> (module:attribute, one line of help). The help is repeated here
# so that `probity --help` imports none of them; a test compares it with the command's own.
COMMANDS: dict[str, tuple[str, str]] = {
    "agent": ("probity.cli.agent:agent", "Run and manage the agent on this machine."),
    "agents": ("probity.cli.agents:agents", "List and manage enrolled agents."),
    "audit": ("probity.cli.audit:audit", "Verify and export the audit trail."),
    "db": ("probity.cli.db:db", "Migrate, back up and restore the database."),
    "doctor": ("probity.cli.doctor:doctor", "Check this installation and say what to do about it."),
    "keys": ("probity.cli.keys:keys", "Create, list and revoke API keys."),
    "login": ("probity.cli.login:login", "Sign in to a Probity server."),
    "openapi": ("probity.cli.openapi:openapi", "Print the OpenAPI document."),
    "run": ("probity.cli.run:run", "Run a command as a check on an agent."),
    "runs": ("probity.cli.runs:runs", "List, show, watch and import runs."),
    "serve": ("probity.cli.serve:serve", "Run the server."),
    "up": ("probity.cli.up:up", "Start everything on this machine."),
    "users": ("probity.cli.users:users", "Manage users of this installation."),
}


@click.group(
    cls=LazyGroup,
    commands_table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="probity")
def cli() -> None:
    """Dispatch checks, watch them live, keep the evidence."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 fine, 1 the check or the command failed, 2 wrong usage."""
    lifeline.follow_parent(os.environ)
    sys.exit(exit_code_of(cli, argv))
