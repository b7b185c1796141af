"""`probity agent …`: enrol this machine, run the agent, see how it does, keep it running."""

import asyncio
import logging
import os
import platform
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from probity import __version__
from probity.agent.api import CredentialRefused, enroll
from probity.agent.runner import Agent
from probity.agent.service_units import Unit, launchd_unit, systemd_unit
from probity.agent.settings import CAPABILITIES, AgentSettings, Credential, default_data, load_credential, prepare_data, save_credential
from probity.cli.errors import CheckFailed, CommandFailed
from probity.cli.output import json_option, print_json
from probity.kernel.lockfile import AlreadyLocked, locked
from probity.kernel.serverurl import server_url

# systemd does not start the agent again after this exit code.
EXIT_REVOKED: Final = 3
# `agent status` holds the lock for a moment to see whether it is free; an agent that starts just then waits.
LOCK_WAIT_S: Final = 2.0

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of credential, spool and jobs. [default: the user's state directory]",
)


@click.group()
def agent() -> None:
    """Run and manage the agent on this machine."""


@agent.command("enroll")
@click.option("--server", required=True, help="Address of the server, https://…")
@click.option(
    "--token", envvar="PROBITY_ENROLLMENT_TOKEN", help="Enrolment token; better by environment or --token-file than on the command line."
)
@click.option("--token-file", type=click.File(), help="Read the token from a file; - is standard input.")
@click.option("--name", help="Name of the agent. [default: host name]")
@click.option("--tag", "tags", multiple=True, help="Tag to select this agent by; repeatable.")
@click.option("--insecure", is_flag=True, help="Allow plain http to another machine.")
@click.option("--force", is_flag=True, help="Replace the credential of an agent that is enrolled here.")
@data_option
@json_option
def enroll_command(
    server: str,
    token: str | None,
    token_file: Any,
    name: str | None,
    tags: tuple[str, ...],
    insecure: bool,
    force: bool,
    data: Path | None,
    as_json: bool,
) -> None:
    """Enrol this machine with a token from the server."""
    folder = _data(data)
    if token_file is not None:
        token = token_file.read().strip()
    if not token:
        raise click.UsageError("give the enrolment token by --token-file, --token or PROBITY_ENROLLMENT_TOKEN")
    base = server_url(server, insecure=insecure)
    if (folder / "agent.json").exists() and not force:
        raise CommandFailed(f"an agent is enrolled in {folder} already; --force replaces it")
    prepare_data(folder)
    host = socket.gethostname()
    request = {
        "enrollment_token": token,
        "agent_name": name or host,
        "agent_version": __version__,
        "capabilities": list(CAPABILITIES),
        "hostname": host,
        "os": platform.system().lower(),
        "arch": platform.machine(),
        "tags": list(tags),
    }
    enrolled = asyncio.run(enroll(base, request))
    path = save_credential(
        folder,
        Credential(
            server=base,
            agent_id=enrolled.agent_id,
            secret=enrolled.agent_token,
            name=name or host,
            heartbeat_s=enrolled.heartbeat_interval_seconds,
            poll_s=enrolled.job_poll_interval_seconds,
        ),
    )
    if as_json:
        print_json({"agent_id": enrolled.agent_id, "name": name or host, "server": base, "credential": str(path)})
    else:
        click.echo(f"Enrolled as {name or host} ({enrolled.agent_id}). Start it with `probity agent run`, or `probity agent install`.")


@agent.command("run")
@click.option("--concurrency", type=click.IntRange(1, 256), default=1, show_default=True, help="Jobs at a time.")
@click.option("--pass-env", multiple=True, metavar="NAME", help="Let commands see this variable of the agent's environment; repeatable.")
@click.option(
    "--allow-cwd",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Run commands only below this directory; repeatable.",
)
@click.option(
    "--spool-limit", type=click.IntRange(min=4), default=2048, show_default=True, help="Most disk for undelivered records, in MiB."
)
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Seconds that running jobs may take when the agent is stopped.",
)
@click.option("--verbose", is_flag=True, help="Log every request.")
@data_option
def run_command(
    concurrency: int,
    pass_env: tuple[str, ...],
    allow_cwd: tuple[Path, ...],
    spool_limit: int,
    drain: float,
    verbose: bool,
    data: Path | None,
) -> None:
    """Run the agent until it is stopped (SIGTERM, Ctrl-C)."""
    folder = _data(data)
    credential = load_credential(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CommandFailed(f"{folder} cannot be written by this user; run the agent as the user that enrolled it, or name another --data")
    settings = AgentSettings(
        data=folder,
        concurrency=concurrency,
        pass_env=pass_env,
        allowed_roots=allow_cwd,
        spool_limit_bytes=spool_limit * 1_048_576,
        drain_s=drain,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.DEBUG if verbose else logging.WARNING)
    try:
        with _only_one(folder):
            asyncio.run(_run(credential, settings))
    except AlreadyLocked as error:
        raise CommandFailed(f"an agent runs in {folder} already") from error
    except CredentialRefused as error:
        click.echo(f"Error: the server refuses this agent ({error}). It was revoked or removed; enrol again to use this machine.", err=True)
        raise click.exceptions.Exit(EXIT_REVOKED) from error


async def _run(credential: Credential, settings: AgentSettings) -> None:
    running = Agent(credential, settings, os.environ)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.stop)
    logging.getLogger("probity.agent").info("agent %s serves %s", credential.name, credential.server)
    await running.run()


@contextmanager
def _only_one(folder: Path, *, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold the lock of the data directory: two agents over one spool would deliver each other's records.

    Raises:
        AlreadyLocked: an agent runs there.
    """
    deadline = time.monotonic() + wait_s
    while True:
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(folder / "agent.lock"))
            except AlreadyLocked:
                if time.monotonic() >= deadline:
                    raise
            else:
                yield
                return
        time.sleep(0.05)


@agent.command("status")
@data_option
@json_option
def status_command(data: Path | None, as_json: bool) -> None:
    """Say whether the agent of this machine runs and reaches its server; exit code 1 when not."""
    folder = _data(data)
    credential = load_credential(folder)
    status = _status(folder)
    report = {"name": credential.name, "agent_id": credential.agent_id, "server": credential.server, **status}
    if as_json:
        print_json(report)
    else:
        click.echo(f"{credential.name} ({credential.agent_id}) for {credential.server}")
        click.echo(f"  {'running' if status['running'] else 'not running'}; {_contact(status)}")
        click.echo(f"  jobs: {', '.join(status['jobs']) or 'none'}; records waiting for the server: {status['waiting_records']}")
    if not (status["running"] and status["server_answers"]):
        raise click.exceptions.Exit(1)


def _status(folder: Path) -> dict[str, Any]:
    """Return the running agent's last note; the lock, not the note, says whether it runs."""
    status: dict[str, Any] = {"started_at": None, "last_contact_at": None, "server_answers": False, "jobs": [], "waiting_records": 0}
    with suppress(FileNotFoundError, msgspec.DecodeError):
        status |= msgspec.json.decode((folder / "status.json").read_bytes(), type=dict[str, Any])
    try:
        with locked(folder / "agent.lock"):
            status |= {"running": False, "jobs": []}
    except AlreadyLocked:
        status["running"] = True
    return status


def _contact(status: dict[str, Any]) -> str:
    if status["last_contact_at"] is None:
        return "has not reached the server yet"
    ago = f"{max(0, round(time.time() - status['last_contact_at']))} s ago"
    return f"last contact {ago}" + ("" if status["server_answers"] else ", the server does not answer")


@agent.command("install")
@click.option("--system", "scope", flag_value="system", help="For the whole machine (needs root). [default for root]")
@click.option("--user", "scope", flag_value="user", help="For this user. [default for others]")
@click.option("--print", "only_print", is_flag=True, help="Print the unit file and change nothing.")
@click.option("--concurrency", type=click.IntRange(1, 256), default=1, show_default=True)
@data_option
def install_command(scope: str | None, only_print: bool, concurrency: int, data: Path | None) -> None:
    """Install the agent as a service (systemd on Linux, launchd on macOS)."""
    user = scope == "user" if scope else os.geteuid() != 0
    folder = _data(data).absolute()
    command = (sys.executable, "-m", "probity", "agent", "run", "--data", str(folder), "--concurrency", str(concurrency))
    if sys.platform == "darwin":
        unit = launchd_unit(command, user=user, home=Path.home(), data=folder)
    else:
        unit = systemd_unit(command, user=user, home=Path.home())
    if only_print:
        click.echo(unit.text, nl=False)
        return
    load_credential(folder)  # a service without an agent would only fail again and again
    _install(unit)


def _install(unit: Unit) -> None:
    try:
        unit.path.parent.mkdir(parents=True, exist_ok=True)
        unit.path.write_text(unit.text, encoding="utf-8")
    except PermissionError as error:
        raise CommandFailed(f"cannot write {unit.path}: run as root, or use --user") from error
    click.echo(f"wrote {unit.path}")
    for command in unit.activate:
        try:
            subprocess.run(command, check=True)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            raise CheckFailed(
                f"the unit is written, but `{shlex.join(command)}` failed; run it yourself where the service manager runs"
            ) from error


def _data(chosen: Path | None) -> Path:
    return chosen or default_data(os.environ, os.geteuid())
