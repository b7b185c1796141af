"""`probity serve`: the HTTP server, one process or several on one socket."""

import contextlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from probity import config
from probity.cli import lifeline
from probity.cli.errors import CommandFailed

if TYPE_CHECKING:
    from probity.kernel.http.server import ServerOptions

_BACKLOG: Final = 2048


@click.command(short_help="Run the server.")
@click.option("--host", help="Address to listen on (PROBITY_HOST).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on (PROBITY_PORT).")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Server processes that share the port.")
@click.option("--tls-cert", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Certificate chain, PEM (PROBITY_TLS_CERT).")
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its private key, PEM (PROBITY_TLS_KEY).")
@click.option("--migrate", "migrates", is_flag=True, help="Upgrade the database first (needs DATABASE_MIGRATION_URL).")
@click.option("--socket-fd", type=int, hidden=True, help="A bound socket inherited from the parent process.")
def serve(
    host: str | None,
    port: int | None,
    workers: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    migrates: bool,
    socket_fd: int | None,
) -> None:
    """Run the server.

    Settings come from the environment (docs/configuration.md). Any number of servers may share one database. SIGTERM and Ctrl-C end it
    in order: no new requests, open streams get their last event, running work is finished or given back.
    """
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together")
    overrides = {"PROBITY_HOST": host, "PROBITY_PORT": str(port) if port is not None else None}
    os.environ.update({name: value for name, value in overrides.items() if value is not None})
    settings = load_config()
    if migrates:
        _migrate(settings)
    listener = inherited(socket_fd) if socket_fd is not None else bind(settings.http.host, settings.http.port)
    with contextlib.closing(listener):
        if workers == 1:
            _serve_here(settings, listener, tls_cert, tls_key)
        else:
            _serve_workers(settings, listener, workers, tls_cert, tls_key)


def load_config() -> config.Config:
    """Read the settings; every wrong one is named in the error."""
    try:
        return config.load(os.environ)
    except config.ConfigError as error:
        raise CommandFailed(str(error)) from error


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address, not listening yet.

    Raises:
        CommandFailed: the port is taken, or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Two sockets may be bound to one port as long as neither listens, so only listening proves that it is ours.
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise CommandFailed(
            f"cannot listen on {host} port {port}: {error.strerror}; stop what uses it, or choose another with --port"
        ) from error
    return listener


def inherited(descriptor: int) -> socket.socket:
    return socket.socket(fileno=descriptor)


def application() -> object:
    """Build the application for one worker process; called by the server by name."""
    from probity import main

    settings = load_config()
    _configure_logging(settings)
    # Named by the parent itself: one that is killed while this process starts is gone before anybody could ask who it was.
    lifeline.follow_parent(os.environ)
    return main.build(settings)


def _serve_here(settings: config.Config, listener: socket.socket, tls_cert: Path | None, tls_key: Path | None) -> None:
    import uvicorn

    from probity import main
    from probity.kernel.http.server import uvicorn_config

    _configure_logging(settings)
    server = uvicorn.Server(uvicorn_config(main.build(settings), _options(settings, 1, tls_cert, tls_key), backlog=_BACKLOG))
    server.run(sockets=[listener])
    if not server.started:
        raise CommandFailed("the server did not start; the log above says why")


def _serve_workers(settings: config.Config, listener: socket.socket, workers: int, tls_cert: Path | None, tls_key: Path | None) -> None:
    from uvicorn.supervisors import Multiprocess

    from probity.kernel.http.server import uvicorn_config

    _configure_logging(settings)
    options = _options(settings, workers, tls_cert, tls_key)
    plan = uvicorn_config("probity.cli.serve:application", options, factory=True, backlog=_BACKLOG)
    lifeline.with_parent(os.environ)
    Multiprocess(plan, sockets=[listener]).run()


def _options(settings: config.Config, workers: int, tls_cert: Path | None, tls_key: Path | None) -> "ServerOptions":
    from probity.kernel.http.server import ServerOptions

    return ServerOptions(
        host=settings.http.host,
        port=settings.http.port,
        grace_s=settings.http.shutdown_grace_s,
        tls_cert=tls_cert or settings.http.tls_cert,
        tls_key=tls_key or settings.http.tls_key,
        workers=workers,
    )


def _configure_logging(settings: config.Config) -> None:
    from probity.kernel.telemetry import configure_logging

    configure_logging(level=settings.log.level, json=settings.log.json)


def _migrate(settings: config.Config) -> None:
    import asyncio

    from probity.kernel.migrate import migrate

    if settings.database.migration_url is None:
        raise click.UsageError("--migrate needs DATABASE_MIGRATION_URL, the role that owns the tables")
    asyncio.run(migrate(settings.database.migration_url))
