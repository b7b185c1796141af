"""The master keys of this installation, for commands that work beside the server or without it."""

import os
from pathlib import Path

from probity import config
from probity.cli.errors import CommandFailed
from probity.cli.installation import SECRETS, Installation
from probity.kernel.crypto import KeyRing


def installation_keys(data: Path) -> KeyRing | None:
    """Return the keys of this installation: from the settings, else those that `probity up` keeps in the data directory."""
    try:
        masters = config.load_master_keys(os.environ)
    except config.ConfigError as error:
        raise CommandFailed(str(error)) from error
    if masters is None and (data / SECRETS).exists():
        masters = config.load_master_keys({"PROBITY_MASTER_KEYS": Installation(data).secrets().master_keys})
    return None if masters is None else KeyRing.of(masters, refuse_weak=False)


def required_keys(data: Path) -> KeyRing:
    """Return the keys of this installation.

    Raises:
        CommandFailed: they are not known here, or wrong.
    """
    ring = installation_keys(data)
    if ring is None:
        raise CommandFailed("this needs the installation's keys: set PROBITY_MASTER_KEYS, or name its data directory with --data")
    return ring
