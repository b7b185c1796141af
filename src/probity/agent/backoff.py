"""Waiting between tries, so that a fleet does not return as one wave when its server does."""

import asyncio
import contextlib
import random
from typing import Final

FIRST_S: Final = 0.5
LONGEST_S: Final = 30.0


class Backoff:
    """Doubling delays with jitter; `reset` after a success."""

    def __init__(self, first_s: float = FIRST_S, longest_s: float = LONGEST_S, rng: random.Random | None = None) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._tries = 0

    def reset(self) -> None:
        self._tries = 0

    def next_s(self, at_least_s: float = 0.0) -> float:
        """Return the next delay in seconds: between half and all of the doubled step, never less than `at_least_s`."""
        step: float = min(self._longest_s, self._first_s * 2.0 ** min(self._tries, 16))
        self._tries += 1
        return max(at_least_s, step * self._rng.uniform(0.5, 1.0))

    async def wait(self, woken: asyncio.Event, at_least_s: float = 0.0) -> None:
        """Sleep for the next delay; `woken` (the server answered someone else) ends it early, but not before `at_least_s`."""
        delay = self.next_s(at_least_s)
        await asyncio.sleep(at_least_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(woken.wait(), delay - at_least_s)
