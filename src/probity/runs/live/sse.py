"""Server-sent events: the request's side. Contract: webtest.md §7.1."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from litestar import Request

from probity.kernel.errors import Unauthenticated
from probity.kernel.http.auth import Authenticator
from probity.kernel.principal import Principal
from probity.runs.live.service import StillAllowed
from probity.runs.models import Run

HEADERS: Final = {"Cache-Control": "no-cache", "Connection": "keep-alive", "X-Accel-Buffering": "no"}


def last_event_id(request: Request[Any, Any, Any]) -> int | None:
    """Return the sequence number up to which the viewer has everything; None when it has nothing, or says nothing sensible.

    Viewers that cannot set headers may say it as `?last_event_id=`.
    """
    text = request.headers.get("last-event-id") or request.query_params.get("last_event_id") or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def has_everything(run: Run, after: int | None) -> bool:
    return run.state.is_final and after == run.last_seq


def still_allowed(request: Request[Any, Any, Any], authenticator: Authenticator, principal: Principal) -> StillAllowed:
    """Return a check whether the credential that opened the stream is still good for this organization."""

    async def check() -> bool:
        try:
            now = await authenticator.authenticate(request)
        except Unauthenticated:
            return False
        return principal.org_id in now.org_ids and now.has("runs:read")

    return check


async def begun(stream: AsyncGenerator[bytes], after: int | None) -> AsyncIterator[bytes]:
    """Return a stream whose snapshot is there already, so that what goes wrong with it is an error reply and not a broken stream."""
    first = await anext(stream) if after is None else b""

    async def rest() -> AsyncIterator[bytes]:
        async with aclosing(stream):
            if first:
                yield first
            async for frames in stream:
                yield frames

    return rest()
