"""Hot routes: the few requests that agents send all day, answered in front of the router.

Each is also a normal route: documented, and the fallback for every input that the short way does not want to handle. A hot handler
returns None to hand the request on; the body it read is replayed. Both answer alike; `tests/differential.py` compares them.
"""

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from probity.kernel.http.dialect import Dialect
from probity.kernel.http.exchange import Exchange


class HotReply(msgspec.Struct, frozen=True):
    """`body` is sent as `content_type`; an empty body has none (204)."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = b"application/json"


class HotRequest:
    """One request on the short way: path parameters in order, raw headers, the whole body."""

    __slots__ = ("_headers", "body", "exchange", "params", "query", "wait_disconnect")

    def __init__(
        self,
        params: tuple[str, ...],
        headers: Sequence[tuple[bytes, bytes]],
        query: bytes,
        body: bytes,
        exchange: Exchange,
        wait_disconnect: Callable[[], Awaitable[None]],
    ) -> None:
        self.params = params
        self._headers = headers
        self.query = query
        self.body = body
        self.exchange = exchange
        self.wait_disconnect = wait_disconnect

    def header(self, name: bytes) -> str | None:
        """Return the first header of that name (lower case), or None."""
        for key, value in self._headers:
            if key == name:
                return value.decode("latin-1")
        return None


HotHandler = Callable[[HotRequest], Awaitable[HotReply | None]]


class HotRoute(msgspec.Struct, frozen=True):
    """A route in front of the router. `path` is the normal route's template, parameters as whole segments (`/api/v1/agents/{id}/heartbeat`).

    The handler may raise domain errors: they come out in the dialect, as on the normal route. It answers only what the normal route
    would answer for the same input, and authenticates the caller itself, in its own statement.
    """

    method: str
    path: str
    handler: HotHandler
    dialects: tuple[Dialect, ...]
    body_limit: int = 1_048_576


class HotTable:
    """Finds the hot route of a request: method, number of segments, then the literal segments."""

    def __init__(self, routes: Sequence[HotRoute]) -> None:
        self.routes = tuple(routes)
        self._by_shape: dict[tuple[str, int], list[tuple[HotRoute, tuple[tuple[int, str], ...], tuple[int, ...]]]] = {}
        for route in routes:
            segments = route.path.split("/")
            literals = tuple((i, s) for i, s in enumerate(segments) if not s.startswith("{"))
            # The last literal tells routes of one shape apart soonest.
            ordered = tuple(sorted(literals, reverse=True))
            params = tuple(i for i, s in enumerate(segments) if s.startswith("{"))
            self._by_shape.setdefault((route.method, len(segments)), []).append((route, ordered, params))

    def find(self, method: str, path: str) -> tuple[HotRoute, tuple[str, ...]] | None:
        candidates = self._by_shape.get((method, path.count("/") + 1))
        if candidates is None:
            return None
        segments = path.split("/")
        for route, literals, params in candidates:
            if all(segments[i] == text for i, text in literals):
                return route, tuple([segments[i] for i in params])
        return None
