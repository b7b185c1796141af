"""Compares the short way (hot routes) with the normal one: the same input, the same answer."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import msgspec
from litestar import Litestar

from probity.kernel.http.gate import Gate
from probity.kernel.http.hot import HotRoute

# What differs between two runs of one scenario without meaning anything.
_VARYING = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<uuid>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)"), "<time>"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<request id>"),
    (re.compile(r"\b[A-Za-z0-9_-]{43}\b"), "<secret>"),
)
_IGNORED_HEADERS = frozenset({"x-request-id", "date", "content-length"})


def gate_of(app: Litestar) -> Gate:
    gate: Any = app.asgi_handler
    assert isinstance(gate, Gate)
    return gate


def hot_routes_of(app: Litestar) -> tuple[HotRoute, ...]:
    """Return the hot routes of a started application."""
    return gate_of(app).hot_routes


@contextmanager
def without_hot_routes(app: Litestar) -> Iterator[None]:
    """Answer everything by the normal routes for a while."""
    gate = gate_of(app)
    before = gate.hot_routes
    gate.hot_routes = ()
    try:
        yield
    finally:
        gate.hot_routes = before


def normalized(reply: httpx.Response) -> tuple[int, dict[str, str], str]:
    """Return a reply without ids, times and secrets, so that two runs of one scenario can be compared."""
    text = reply.text
    if "json" in reply.headers.get("content-type", ""):
        text = msgspec.json.encode(reply.json(), order="sorted").decode()
    for pattern, name in _VARYING:
        text = pattern.sub(name, text)
    return reply.status_code, {name: value for name, value in reply.headers.items() if name not in _IGNORED_HEADERS}, text
