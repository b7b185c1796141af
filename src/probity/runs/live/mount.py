"""Where Socket.IO hangs in the application."""

from litestar import Router, asgi
from litestar.types import Receive, Scope, Send

from probity.kernel.http.dialect import Dialect
from probity.kernel.http.groups import route_group
from probity.runs.live.socketio import SocketGateway


def routes(gateway: SocketGateway) -> list[Router]:
    @asgi("/socket.io", is_mount=True, public=True, csrf=False, tiered=False, copy_scope=True)
    async def sockets(scope: Scope, receive: Receive, send: Send) -> None:
        await gateway.asgi(scope, receive, send)

    return [route_group(Dialect.AGNOX, "/", [sockets], tags=["live"])]
