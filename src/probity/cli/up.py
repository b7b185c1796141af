"""`probity up`: everything on one machine, from nothing, until Ctrl-C."""

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import click

from probity import config
from probity.cli.children import Child, ChildKeepsEnding, running
from probity.cli.database import Target, own_database, settings_for
from probity.cli.errors import EXIT_FAILED, EXIT_OK, CommandFailed
from probity.cli.first_check import AgentRow, Api, Run
from probity.cli.installation import Installation, Secrets
from probity.cli.output import print_json
from probity.cli.progress import Progress
from probity.cli.serve import bind
from probity.kernel.migrate import MigrationChanged, migrate
from probity.kernel.telemetry import configure_logging

_READY_WITHIN_S: Final = 60.0
_AGENT_STOPS_WITHIN_S: Final = 15.0
_SERVER_STOPS_WITHIN_S: Final = 20.0
# Of our environment the agent gets none of the server's secrets: what it starts is somebody's test suite.
_SERVER_ONLY: Final = ("DATABASE_", "PROBITY_", "SB_", "SMTP_", "REDIS_")


class Stopped(Exception):
    """SIGINT, SIGTERM or SIGHUP came: end in order."""


@dataclass(frozen=True)
class Outcome:
    """What the first check found."""

    run: Run
    agent: AgentRow
    audit_verified: bool

    @property
    def is_good(self) -> bool:
        return self.run.state == "passed" and self.audit_verified

    def as_json(self, url: str) -> dict[str, object]:
        totals = self.run.totals
        passed = totals.get("passed", 0)
        ran = totals.get("total", 0) - totals.get("skipped", 0)
        return {
            "run": {"id": self.run.id, "uuid": self.run.uuid, "state": self.run.state, "url": f"{url}/runs/{self.run.uuid}"},
            "totals": totals,
            "score": {"value": round(passed / ran, 4) if ran else None, "numerator": passed, "denominator": ran},
            "agent": {"id": self.agent.id, "name": self.agent.name},
            "audit": {"verified": self.audit_verified},
            "url": url,
        }


@click.command(short_help="Start everything on this machine.")
@click.option("--once", is_flag=True, help="Run the sample suite, print the outcome and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one line of JSON, the last on standard output.")
@click.option("--port", type=click.IntRange(0, 65535), default=8484, show_default=True, envvar="PROBITY_PORT", help="Port to listen on.")
@click.option("--host", default="127.0.0.1", show_default=True, envvar="PROBITY_HOST", help="Address to listen on.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".probity"),
    show_default=True,
    envvar="PROBITY_DATA_DIR",
    help="Data directory; remove it to start over.",
)
@click.option("--no-demo", is_flag=True, help="Do not run the sample suite.")
def up(once: bool, as_json: bool, port: int, host: str, data: Path, no_demo: bool) -> int:
    """Start PostgreSQL, the server and an agent on this machine, run the sample suite, and stay up until Ctrl-C.

    With DATABASE_URL set, that database is used instead of an own one. Nothing is left running when this command ends, however it ends.
    """
    if once and no_demo:
        raise click.UsageError("--once runs the sample suite, which --no-demo leaves out")
    configure_logging(level="warning", json=False)
    progress = Progress()
    installation = Installation(data.absolute())
    try:
        with _signals_raise(), contextlib.ExitStack() as stack:
            stack.enter_context(installation.owned())
            listener = stack.enter_context(contextlib.closing(bind(host, port)))
            url = _url(host, listener)
            installation.address.write_text(f"{url}\n", encoding="utf-8")
            secrets = _secrets(installation)
            target = _database(stack, installation, progress)
            environ = {**os.environ, **_server_settings(installation, secrets, target, host, url)}
            server = _server(stack, installation, environ, listener, progress)
            api = stack.enter_context(contextlib.closing(Api(url, secrets)))
            row, agent = _agent(stack, api, installation, progress)
            knows_password = once or api.can_sign_in()
            wants_sample = once or (not no_demo and knows_password and not api.has_runs())
            outcome = _check(api, row, installation, progress) if wants_sample else None
            _say_outcome(outcome, progress)
            if as_json:
                print_json(outcome.as_json(url) if outcome else {"url": url, "agent": {"id": row.id, "name": row.name}})
            if once:
                return EXIT_OK if outcome and outcome.is_good else EXIT_FAILED
            _say_where(url, secrets if knows_password else None, installation, progress)
            _stay(target, server, agent, progress)
    except Stopped:
        progress.say("Stopped.")
    except (ChildKeepsEnding, MigrationChanged, config.ConfigError) as error:
        raise CommandFailed(str(error)) from error
    return EXIT_OK


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Turn the first signal to end into an exception; later ones are ignored, because the first one's clean-up is under way."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def handle(number: int, frame: FrameType | None) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _secrets(installation: Installation) -> Secrets:
    """Return the keys; who changed the administrator's sign-in says so by the documented settings."""
    kept = installation.secrets()
    email, password = os.environ.get("PROBITY_ADMIN_EMAIL"), os.environ.get("PROBITY_ADMIN_PASSWORD")
    if not (email and password):
        return kept
    return Secrets(kept.master_keys, kept.jwt_secret, email, password)


def _database(stack: contextlib.ExitStack, installation: Installation, progress: Progress) -> Target:
    named = config.load_database(os.environ)
    with progress.step("PostgreSQL: yours" if named else "PostgreSQL: starting our own"):
        if named:
            from probity.kernel.postgres import Dsns

            target = Target(Dsns(owner=named.migration_url or named.url, app=named.url, system=named.system_url))
        else:
            target = stack.enter_context(own_database(installation.postgres))
        asyncio.run(migrate(target.dsns.owner))
    return target


def _server_settings(installation: Installation, secrets: Secrets, target: Target, host: str, url: str) -> dict[str, str]:
    """The server's environment; settings that were given win, except for what this command decides."""
    defaults = {
        "PROBITY_ENV": "development",
        "PROBITY_MASTER_KEYS": secrets.master_keys,
        "PROBITY_JWT_SECRET": secrets.jwt_secret,
        "PROBITY_PUBLIC_URL": url,
        # No balancer stands in front, so nobody needs time to notice that the server is going away.
        "PROBITY_DRAIN": "0",
    }
    decided = {
        **settings_for(target.dsns),
        "PROBITY_HOST": host,
        "PROBITY_DATA_DIR": str(installation.data),
        "PROBITY_ADMIN_EMAIL": secrets.admin_email,
        "PROBITY_ADMIN_PASSWORD": secrets.admin_password,
    }
    return {**{name: value for name, value in defaults.items() if name not in os.environ}, **decided}


def _server(
    stack: contextlib.ExitStack, installation: Installation, environ: Mapping[str, str], listener: socket.socket, progress: Progress
) -> Child:
    descriptor = listener.fileno()
    child = Child("server", ["serve", "--socket-fd", str(descriptor)], environ, installation.logs / "server.log", pass_fds=(descriptor,))
    with progress.step("Server: starting"):
        stack.enter_context(running(child, timeout_s=_SERVER_STOPS_WITHIN_S))
        _wait_until_ready(child, listener.getsockname()[:2])
    return child


def _wait_until_ready(child: Child, address: tuple[str, int]) -> None:
    ends = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < ends:
        if child.has_ended():
            raise CommandFailed(f"the server did not start; the end of {child.log}:\n{child.log_tail()}")
        connection = http.client.HTTPConnection(*_reachable(address), timeout=2.0)
        # The socket listens already, so the first request waits in its queue until the server is there.
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.02)
    raise CommandFailed(f"the server is not ready after {_READY_WITHIN_S:.0f} s; see {child.log}")


def _agent(stack: contextlib.ExitStack, api: Api, installation: Installation, progress: Progress) -> tuple[AgentRow, Child]:
    with progress.step("Agent: enrolling this machine"):
        row = api.enrol(installation.agent)
        environ = {name: value for name, value in os.environ.items() if not name.startswith(_SERVER_ONLY)}
        environ["PROBITY_AGENT_DATA"] = str(installation.agent)
        # Last, so that it only helps where there is no `python` at all: `probity run -- python -m pytest` then works out of the box.
        environ["PATH"] = os.pathsep.join([environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
        child = Child("agent", ["agent", "run"], environ, installation.logs / "agent.log")
        stack.enter_context(running(child, timeout_s=_AGENT_STOPS_WITHIN_S))
    return row, child


def _check(api: Api, row: AgentRow, installation: Installation, progress: Progress) -> Outcome:
    run = api.dispatch_sample(row, installation.sample)
    progress.say(f"  {run.id}: the sample suite, on {row.name}")
    run = api.follow(run, progress.result)
    if run.state != "passed":
        progress.say(api.log_tail(run))
    with progress.step("Audit trail: verifying"):
        verified = api.audit_verifies()
    return Outcome(run, row, verified)


def _say_outcome(outcome: Outcome | None, progress: Progress) -> None:
    if outcome is None:
        return
    totals = outcome.run.totals
    progress.say(
        f"{outcome.run.id} {outcome.run.state}: {totals.get('passed', 0)} of {totals.get('total', 0)} passed; "
        f"audit trail {'verified' if outcome.audit_verified else 'NOT verified'}"
    )


def _say_where(url: str, secrets: Secrets | None, installation: Installation, progress: Progress) -> None:
    sign_in = {"e-mail": secrets.admin_email, "password": secrets.admin_password} if secrets else {"sign-in": "yours"}
    progress.panel("Probity is up; Ctrl-C stops it", {"address": url, **sign_in, "data": str(installation.data)})


def _stay(target: Target, server: Child, agent: Child, progress: Progress) -> None:
    while True:
        time.sleep(0.5)
        if target.has_ended():
            raise CommandFailed("PostgreSQL ended; nothing that was acknowledged is lost. Start again with `probity up`")
        for child in (server, agent):
            if child.restart_if_ended():
                progress.say(f"The {child.name} ended and was started again; see {child.log}")


def _url(host: str, listener: socket.socket) -> str:
    name, port = _reachable((host, listener.getsockname()[1]))
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _reachable(address: tuple[str, int]) -> tuple[str, int]:
    """An address to connect to: a server that listens everywhere is reached on the loopback."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(address[0], address[0])  # noqa: S104  (compared, not bound)
    return host, address[1]
