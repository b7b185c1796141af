"""Hot and normal routes answer alike: the same requests, once with and once without the short way."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from litestar import Litestar

from probity.kernel.http.hot import HotTable
from probity.kernel.ids import new_id
from tests.dispatch.test_http import queue
from tests.fleet.test_http import as_admin, mint

__all__ = ["as_admin"]
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")

# Method paths below the agent, bodies and headers: what agents send, and what they should not.
REQUESTS: list[tuple[str, bytes, dict[str, str]]] = [
    (path, body, headers)
    for path in (
        "{agent}/heartbeat",
        "{agent}/jobs/claim",
        "{agent}/jobs/claim?wait=0",
        "{agent}/jobs/claim?wait=-1",
        "{agent}/jobs/claim?wait=x",
        "{agent}/jobs/claim?other=1",
        "{agent}/jobs/{held}/renew",
        "{agent}/jobs/{queued}/renew",
        "{agent}/jobs/{held}/complete",
        "{agent}/jobs/{queued}/complete",
        "{agent}/jobs/{nobody}/complete",
        "{agent}/jobs/nonsense/complete",
        "/api/v1/agents/nonsense/heartbeat",
        "/api/v1/agents/{nobody}/heartbeat",
    )
    for body in (
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff",
        b"null",
        b'{"status":"succeeded"}',
        b'{"status":"nonsense"}',
        b'{"status":"failed","error":"e\\u0000","reason_code":"r","result":{"a":1}}',
        b'{"status":7,"capabilities":[1],"error":[],"result":"x"}',
        b'{"status":"succeeded","error":"' + b"x" * 20_000 + b'"}',
    )
    for headers in ({}, {"X-Agent-Secret": ""}, {"X-Agent-Secret": "wrong"}, {"good": "yes"})
    # A claim ignores its body; without a good credential one body of each kind is enough.
    if body in (b"", b"{") or ("good" in headers and "/claim" not in path and "/renew" not in path)
]


@contextmanager
def only_normal_routes(app: Litestar) -> Iterator[None]:
    gate: Any = app.asgi_handler
    hot, gate._hot = gate._hot, HotTable([])
    try:
        yield
    finally:
        gate._hot = hot


async def answers(
    http: httpx.AsyncClient, headers: dict[str, str], name: str, request: tuple[str, bytes, dict[str, str]]
) -> tuple[Any, ...]:
    """Send one request of a fresh agent that holds one job while another waits, and return what is comparable of the reply."""
    path, secret = await mint(http, headers, name)
    held = await queue(http, headers, agent_id=path.rpartition("/")[2])
    assert (await http.post(f"{path}/jobs/claim", headers=secret)).status_code == 200
    queued = await queue(http, headers, agent_id=path.rpartition("/")[2])
    template, body, sent = request
    if "good" in sent:
        sent = secret
    reply = await http.post(template.format(agent=path, held=held, queued=queued, nobody=new_id()), headers=sent, content=body)
    text = _ID.sub("<id>", _TIME.sub("<time>", reply.text))
    return reply.status_code, json.loads(text) if text else None, sorted(name for name in reply.headers if name != "date")


@pytest.mark.timeout(300)
async def test_hot_and_normal_routes_agree(app: Litestar, http: httpx.AsyncClient, as_admin: dict[str, str]) -> None:
    statuses = set()
    for number, request in enumerate(REQUESTS):
        hot = await answers(http, as_admin, f"hot-{number}", request)
        with only_normal_routes(app):
            normal = await answers(http, as_admin, f"normal-{number}", request)
        assert hot == normal, request
        statuses.add(hot[0])
    assert statuses >= {200, 204, 400, 401, 404, 409}
