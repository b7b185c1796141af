"""Which database a command works on: the one of the settings, else the one that `probity up` keeps in its data directory."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from probity import config
from probity.cli.errors import CommandFailed
from probity.cli.installation import DATABASE, Installation
from probity.kernel.lockfile import AlreadyLocked
from probity.kernel.postgres import Cluster, Dsns, NoPlace, NoPostgres, PostgresFailed, create_database, embedded_cluster, running_cluster
from probity.kernel.secret import Secret


@dataclass(frozen=True)
class Target:
    """A database, and the PostgreSQL that runs it when that one is ours."""

    dsns: Dsns
    cluster: Cluster | None = None

    @property
    def programs(self) -> Path | None:
        return self.cluster.binaries.directory if self.cluster else None

    def has_ended(self) -> bool:
        """Whether PostgreSQL was ours and is gone."""
        return self.cluster is not None and not self.cluster.is_running()


@contextlib.contextmanager
def target_database(environ: Mapping[str, str], data: Path) -> Iterator[Target]:
    """Provide the database for the block; an embedded one that does not run is started, and stopped afterwards.

    Raises:
        CommandFailed: the settings are incomplete, or PostgreSQL does not start.
    """
    named = config.load_database(environ)
    if named is not None:
        yield Target(Dsns(owner=named.migration_url or named.url, app=named.url, system=named.system_url))
        return
    with own_database(Installation(data).postgres) as target:
        yield target


@contextlib.contextmanager
def own_database(directory: Path) -> Iterator[Target]:
    """Provide the embedded database below `directory`, started unless it runs."""
    try:
        running = running_cluster(directory)
        if running is not None:
            dsns = Dsns(*(running.dsn(role, DATABASE) for role in ("probity_owner", "probity_app", "probity_system")))
            yield Target(dsns, running)
            return
        with embedded_cluster(directory) as cluster:
            yield Target(asyncio.run(create_database(cluster, DATABASE)), cluster)
    except AlreadyLocked as error:
        raise CommandFailed(f"PostgreSQL in {directory} is starting or stopping; try again in a moment") from error
    except (NoPlace, NoPostgres, PostgresFailed) as error:
        raise CommandFailed(str(error)) from error


def settings_for(dsns: Dsns) -> dict[str, str]:
    """The environment variables that point a server to this database."""
    named: dict[str, Secret] = {"DATABASE_URL": dsns.app, "DATABASE_SYSTEM_URL": dsns.system, "DATABASE_MIGRATION_URL": dsns.owner}
    return {name: value.reveal() for name, value in named.items()}
