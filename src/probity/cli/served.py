"""The database of this installation, for commands that work beside the server or without it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from probity import config
from probity.cli.database import Target, target_database
from probity.cli.errors import CommandFailed
from probity.kernel.telemetry import configure_logging


@contextlib.contextmanager
def served(data: Path) -> Iterator[Target]:
    """Provide the database for the block; what can go wrong with it becomes one sentence.

    Raises:
        CommandFailed: it is not configured, or does not answer.
    """
    configure_logging(level="warning", json=False)
    try:
        with target_database(os.environ, data) as target:
            yield target
    except config.ConfigError as error:
        raise CommandFailed(str(error)) from error
    except OSError as error:
        raise CommandFailed(f"the database does not answer: {error}") from error
