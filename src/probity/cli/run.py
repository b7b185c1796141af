"""`probity run -- COMMAND`: dispatch a command to an agent and, if asked, watch it to its end."""

import os
import shlex
from typing import Any

import click

from probity.cli.errors import EXIT_INTERRUPTED
from probity.cli.output import json_option, print_json
from probity.cli.session import client
from probity.cli.watching import Show, exit_code, follow, report


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--project", help="Project that the run belongs to.")
@click.option("--name", help="Name of the run. [default: the command]")
@click.option("--agent", help="Name or id of the agent to run on. [default: any that can]")
@click.option("--tag", "tags", multiple=True, help="Run on an agent with this tag; repeatable.")
@click.option("--cwd", help="Working directory on the agent. [default: this directory]")
@click.option("--scratch", is_flag=True, help="Run in an empty directory that vanishes afterwards.")
@click.option("--env", "env", multiple=True, metavar="NAME[=VALUE]", help="Variable for the command; without a value, yours; repeatable.")
@click.option(
    "--timeout", "timeout_s", type=click.IntRange(1, 604_800), default=3600, show_default=True, help="Seconds until the command is ended."
)
@click.option("--junit", multiple=True, metavar="GLOB", help="Read these JUnit XML files; repeatable.")
@click.option("--artifact", "artifacts", multiple=True, metavar="GLOB", help="Keep these files; repeatable.")
@click.option("--wait", is_flag=True, help="Follow the run; the exit code is 0 when it passes, 1 when not.")
@click.option(
    "--show", type=click.Choice([each.value for each in Show]), default=Show.OUTPUT.value, show_default=True, help="What --wait shows."
)
@json_option
def run(
    command: tuple[str, ...],
    project: str | None,
    name: str | None,
    agent: str | None,
    tags: tuple[str, ...],
    cwd: str | None,
    scratch: bool,
    env: tuple[str, ...],
    timeout_s: int,
    junit: tuple[str, ...],
    artifacts: tuple[str, ...],
    wait: bool,
    show: str,
    as_json: bool,
) -> None:
    """Run a command as a check on an agent.

    \b
    probity run --wait -- python -m pytest
    probity run --agent build-3 --junit 'reports/*.xml' -- make check
    """
    if scratch and cwd:
        raise click.UsageError("--scratch and --cwd exclude each other")
    new_run: dict[str, Any] = {
        "kind": "command",
        "name": (name or shlex.join(command))[:200],
        "command": list(command),
        "cwd": None if scratch else cwd or os.getcwd(),  # noqa: PTH109 - the path as the user sees it, links unresolved
        "env": dict(map(_variable, env)),
        "timeout_s": timeout_s,
        "tags": list(tags),
        "junit": list(junit),
        "artifacts": list(artifacts),
    }
    new_run |= {field: value for field, value in (("project", project), ("agent", agent)) if value}
    with client() as api:
        started = api.create_run({field: value for field, value in new_run.items() if value is not None})
        if not wait:
            if as_json:
                print_json(started)
            else:
                click.echo(f"{started.id} is queued; follow it with `probity runs watch {started.id}`")
            return
        try:
            ended = follow(api, started.uuid, Show.NOTHING if as_json else Show(show))
        except KeyboardInterrupt:
            click.echo(
                f"\n{started.id} goes on; `probity runs watch {started.id}` follows it, `probity runs abort {started.id}` ends it", err=True
            )
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
        if as_json:
            print_json(ended)
        else:
            report(api, ended)
    raise click.exceptions.Exit(exit_code(ended))


def _variable(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if separator:
        return name, value
    if name not in os.environ:
        raise click.UsageError(f"--env {name}: there is no such variable here; give a value as {name}=VALUE")
    return name, os.environ[name]
