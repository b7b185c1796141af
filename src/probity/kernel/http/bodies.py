"""Reading request bodies: never more than the route allows, never longer than a caller deserves."""

import asyncio
from collections.abc import Sequence

from probity.kernel.http.asgi import Message, Receive
from probity.kernel.http.failures import BodyTooLarge, ClientGone, SlowBody


def check_declared_length(headers: Sequence[tuple[bytes, bytes]], limit_bytes: int) -> None:
    """Refuse a body whose announced length is over the limit before a byte of it is read."""
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and int(value) > limit_bytes:
            raise BodyTooLarge(limit_bytes)


async def read_all(receive: Receive, limit_bytes: int, timeout_s: float) -> bytes:
    """Return the whole body.

    Raises:
        BodyTooLarge: more arrived than `limit_bytes`.
        SlowBody: it was not complete after `timeout_s`.
        ClientGone: the caller hung up.
    """
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone("the caller hung up")
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limit_bytes:
                    raise BodyTooLarge(limit_bytes)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    except TimeoutError as error:
        raise SlowBody from error


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives `body` again, then whatever the server says next."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def guarded(receive: Receive, *, limit_bytes: int, timeout_s: float, streamed: bool) -> Receive:
    """Return a `receive` that holds the route's body limit and time limit.

    A streamed body may take as long as it likes in total while each chunk arrives within `timeout_s`; any other must be complete by then.
    """
    size = 0
    complete = False
    deadline: float | None = None

    async def limited() -> Message:
        nonlocal size, complete, deadline
        if complete:
            return await receive()
        loop = asyncio.get_running_loop()
        if deadline is None or streamed:
            deadline = loop.time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError as error:
            raise SlowBody from error
        if message["type"] == "http.disconnect":
            raise ClientGone("the caller hung up")
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            if size > limit_bytes:
                raise BodyTooLarge(limit_bytes)
            complete = not message.get("more_body", False)
        return message

    return limited
