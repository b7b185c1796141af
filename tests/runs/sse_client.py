"""A client of server-sent events, as strict about framing as a browser."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx


async def messages(
    client: httpx.AsyncClient, url: str, *, headers: dict[str, str], last_id: int | None = None
) -> AsyncIterator[dict[str, Any]]:
    """Yield messages with their id under `_id` and their event name under `_event`."""
    headers = headers | {"accept": "text/event-stream"} | ({} if last_id is None else {"last-event-id": str(last_id)})
    async with client.stream("GET", url, headers=headers, timeout=20) as reply:
        assert reply.status_code == 200, await reply.aread()
        assert reply.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        async for line in reply.aiter_lines():
            if line.startswith(":"):
                continue
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                yield json.loads(fields["data"]) | {"_id": int(fields["id"]), "_event": fields.get("event")}
                fields = {}
