"""Socket.IO: everybody of an organization hears what all its runs do. Contract: quality.md §7.

Each server emits from its own reader of the runs' sequences, so there is no manager between servers: websocket works on any replica,
polling needs an affinity. A socket that was away re-reads the log, as the contract says; nothing is replayed.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import socketio
import structlog

from probity.kernel.errors import Unauthenticated, Unavailable
from probity.kernel.ids import hex24
from probity.kernel.principal import OrgId, Principal
from probity.runs.live.feed import OrgFeed
from probity.runs.live.service import RECHECK_S, LiveService

log = structlog.get_logger(__name__)

# Source: quality.md §7 (the open packet).
_PING_INTERVAL_S: Final = 25
_PING_TIMEOUT_S: Final = 20
_MAX_PAYLOAD: Final = 1_000_000
# A socket with this many packets unread is not reading; it may come back and re-read.
_MAX_UNREAD: Final = 2000
_MAX_TOKEN: Final = 8192

TokenAuthenticator = Callable[[str], Awaitable[Principal]]


class SocketGateway:
    """The Socket.IO side of the server. Made before the application starts; `open` gives it what it needs to judge and to emit."""

    def __init__(self, *, recheck_s: float = RECHECK_S) -> None:
        # Origins are the gate's business (`[]` turns the library's own rules off); a socket is judged by its token, never by a cookie.
        self._server = socketio.AsyncServer(
            async_mode="asgi",
            always_connect=True,
            cors_allowed_origins=[],
            ping_interval=_PING_INTERVAL_S,
            ping_timeout=_PING_TIMEOUT_S,
            max_http_buffer_size=_MAX_PAYLOAD,
            cookie=None,
            logger=False,
            engineio_logger=False,
        )
        self._server.on("connect", self._on_connect)
        self._server.on("disconnect", self._on_disconnect)
        self.asgi = socketio.ASGIApp(self._server, socketio_path="")
        self._recheck_s = recheck_s
        self._tokens: dict[str, tuple[str, OrgId]] = {}
        self._feeds: dict[OrgId, OrgFeed] = {}
        self._authenticate: TokenAuthenticator | None = None
        self._live: LiveService | None = None
        self._loops: list[asyncio.Task[None]] = []

    async def open(self, live: LiveService, authenticate: TokenAuthenticator, stopping: asyncio.Event) -> None:
        self._live = live
        self._authenticate = authenticate
        self._loops = [
            asyncio.create_task(self._recheck(), name="runs.sockets.recheck"),
            asyncio.create_task(self._stop(stopping), name="runs.sockets.stop"),
        ]

    async def close(self) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        for feed in tuple(self._feeds.values()):
            await feed.close()
        self._feeds.clear()
        await self._hang_up()

    def wake(self, key: str) -> None:
        """A run has moved; `key` is `<organization>/<run>` or ANY. The callback for wake-ups of `RUN_CHANNEL`."""
        for feed in self._feeds.values():
            feed.wake(key)

    async def _on_connect(self, sid: str, environ: Mapping[str, Any], auth: object = None) -> None:
        """Judge a socket that was accepted already: real clients read the reason from an event, not from a refusal."""
        token = _token_of(auth, environ)
        if token is None:
            await self._refuse(sid, "Authentication required")
            return
        principal = await self._principal(token)
        if principal is None:
            await self._refuse(sid, "Invalid or expired token")
            return
        org_id = principal.org_id
        self._tokens[sid] = (token, org_id)
        await self._join(sid, org_id)
        who = {"organizationId": hex24(org_id), "userId": hex24(principal.user_id) if principal.user_id else principal.actor}
        await self._server.emit(
            "auth-success", {"message": "Connected to organization channel", **who, "role": principal.role or principal.kind.value}, to=sid
        )

    async def _on_disconnect(self, sid: str, *_: object) -> None:
        known = self._tokens.pop(sid, None)
        if known is None:
            return
        org_id = known[1]
        if not any(other == org_id for _, other in self._tokens.values()) and (feed := self._feeds.pop(org_id, None)) is not None:
            await feed.close()

    async def _principal(self, token: str) -> Principal | None:
        """Return who presents this token, if it is somebody who may watch runs."""
        assert self._authenticate is not None
        try:
            principal = await self._authenticate(token)
        except (Unauthenticated, Unavailable):
            return None
        return principal if principal.active_org is not None and principal.has("runs:read") else None

    async def _refuse(self, sid: str, reason: str) -> None:
        await self._server.emit("auth-error", {"error": reason}, to=sid)
        await self._server.disconnect(sid)

    async def _join(self, sid: str, org_id: OrgId) -> None:
        assert self._live is not None
        if org_id not in self._feeds:
            room = f"org:{org_id}"

            async def emit(event: str, payload: dict[str, Any]) -> None:
                await self._server.emit(event, payload, room=room)

            feed = self._feeds[org_id] = OrgFeed(self._live, org_id, emit)
            await feed.start()
        await self._server.enter_room(sid, f"org:{org_id}")

    async def _recheck(self) -> None:
        """Now and then look at every socket again: is its token still good, does it still read?"""
        while True:
            await asyncio.sleep(self._recheck_s)
            for sid, (token, org_id) in tuple(self._tokens.items()):
                try:
                    await self._recheck_one(sid, token, org_id)
                except Exception as error:  # noqa: BLE001
                    # The supervisor of all sockets: what is wrong with one is no reason to stop looking at the others.
                    log.warning("runs.sockets.not_checked", error=repr(error))

    async def _recheck_one(self, sid: str, token: str, org_id: OrgId) -> None:
        socket = self._server.eio.sockets.get(self._server.manager.eio_sid_from_sid(sid, "/"))
        if socket is None:
            # It hung up while it was being judged, so nobody told us after we had let it in.
            await self._on_disconnect(sid)
            return
        if socket.queue.qsize() > _MAX_UNREAD:
            await socket.close(wait=False, abort=True)
            return
        principal = await self._principal(token)
        if principal is None or principal.active_org != org_id:
            await self._refuse(sid, "Token has been revoked")

    async def _stop(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        await self._hang_up()

    async def _hang_up(self) -> None:
        """Close the transports, not the sessions: clients then come back by themselves, to another server."""
        for socket in tuple(self._server.eio.sockets.values()):
            with contextlib.suppress(Exception):
                await socket.close(wait=False, abort=True)


def _token_of(auth: object, environ: Mapping[str, Any]) -> str | None:
    """Return the token of the CONNECT payload, else of the handshake's headers."""
    if isinstance(auth, dict):
        token = auth.get("token")
        if isinstance(token, str) and 0 < len(token) <= _MAX_TOKEN:
            return token.removeprefix("Bearer ").strip() or None
    header = str(environ.get("HTTP_AUTHORIZATION", ""))
    token = header.removeprefix("Bearer ").strip() if header.startswith("Bearer ") else str(environ.get("HTTP_X_API_KEY", "")).strip()
    return token if 0 < len(token) <= _MAX_TOKEN else None
