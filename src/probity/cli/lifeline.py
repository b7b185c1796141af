"""A child that `probity up` or `probity serve` starts ends when its parent has gone, however it went.

Linux could tell the child by a signal (PR_SET_PDEATHSIG), other systems cannot; asking who the parent is works on all of them.
"""

import os
import signal
import threading
import time
from collections.abc import MutableMapping
from typing import Final

PARENT: Final = "PROBITY_PARENT_PID"
_LOOK_EVERY_S: Final = 0.25


def with_parent(environ: MutableMapping[str, str]) -> MutableMapping[str, str]:
    """Ask a child that gets this environment to end with the present process."""
    environ[PARENT] = str(os.getpid())
    return environ


def follow_parent(environ: MutableMapping[str, str]) -> None:
    """When the environment asks for it, end this process (SIGTERM first) once the named parent is not its parent any more."""
    # Removed, so that what this process starts does not believe that it was meant.
    parent = environ.pop(PARENT, "")
    if parent.isdigit():
        follow(int(parent))


def follow(parent: int, *, grace_s: float = 30.0) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY_S)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
