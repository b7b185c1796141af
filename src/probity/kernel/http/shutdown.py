"""Going away politely: first no new traffic, then every open stream ends, then the server stops."""

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import structlog

log = structlog.get_logger("probity.shutdown")
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Shutdown:
    """`is_draining` closes the readiness gate; `stopping` is what streams and long polls watch.

    Args:
        drain_s: how long to go on serving with the gate closed, so that balancers notice before connections are refused.
    """

    def __init__(self, drain_s: float = 0.0) -> None:
        self._drain_s = drain_s
        self.is_draining = False
        self.stopping = asyncio.Event()

    def begin(self) -> None:
        self.is_draining = True

    def stop(self) -> None:
        self.is_draining = True
        self.stopping.set()

    def chain_signals(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        """Run before the server's own handlers, which otherwise wait for open streams until their grace time is over.

        Returns a function that puts the old handlers back. Only the main thread gets signals; elsewhere this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            return lambda: None
        before: dict[int, Any] = {}

        def handle(number: int, frame: FrameType | None) -> None:
            again = self.is_draining
            self.begin()
            wait_s = 0.0 if again else self._drain_s
            loop.call_soon_threadsafe(loop.call_later, wait_s, self._pass_on, before[number], number, frame)

        for number in _SIGNALS:
            before[number] = signal.signal(number, handle)

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        return restore

    def _pass_on(self, handler: Any, number: int, frame: FrameType | None) -> None:
        log.info("server.stopping", signal=signal.Signals(number).name)
        self.stop()
        if callable(handler):
            handler(number, frame)
