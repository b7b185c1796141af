"""A small HTTP/1.1 load generator: so many connections, each sends its next request when the reply to the last one is complete."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Load:
    """What came back: replies by status class, and how long each took in seconds."""

    seconds: float = 0.0
    replies: int = 0
    errors: int = 0
    latencies: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return self.replies / self.seconds if self.seconds else 0.0

    def percentile_ms(self, percent: float) -> float:
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


def request(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """Return a request as it goes over the wire."""
    lines = [f"{method} {path} HTTP/1.1", "host: bench", f"content-length: {len(body)}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class _Connection(asyncio.Protocol):
    def __init__(self, load: Load, next_request: Callable[[], bytes], end: float, done: "asyncio.Future[None]") -> None:
        self._load = load
        self._next = next_request
        self._end = end
        self._done = done
        self._buffer = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        length = self._buffer.lower().find(b"content-length:", 0, head)
        size = 0 if length < 0 else int(self._buffer[length + 15 : self._buffer.index(b"\r\n", length)])
        if len(self._buffer) < head + 4 + size:
            return
        now = time.perf_counter()
        if self._buffer[9:10] == b"2":
            self._load.replies += 1
            self._load.latencies.append(now - self._sent)
        else:
            self._load.errors += 1
        self._buffer = b""
        if now < self._end:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._next())  # type: ignore[attr-defined]


async def load(port: int, next_request: Callable[[], bytes], *, connections: int, seconds: float) -> Load:
    """Send requests to this machine's `port` for `seconds` and return what came back."""
    loop = asyncio.get_running_loop()
    found = Load()
    started = time.perf_counter()
    ends = [loop.create_future() for _ in range(connections)]
    for end in ends:
        await loop.create_connection(lambda end=end: _Connection(found, next_request, started + seconds, end), "127.0.0.1", port)
    await asyncio.wait(ends, timeout=seconds + 10)
    found.seconds = time.perf_counter() - started
    return found
