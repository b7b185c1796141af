"""The application in process and on a real socket, for tests."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from litestar import Litestar

from probity.kernel.http.auth import Connection
from probity.kernel.http.server import ServerOptions, uvicorn_config
from probity.kernel.principal import ANONYMOUS, Principal

HEADER = "x-test-principal"


class TestAuthenticator:
    """Believes whoever a test says is calling: `headers=callers.headers(principal)`."""

    __test__ = False

    def __init__(self) -> None:
        self._known: dict[str, Principal] = {}

    def headers(self, principal: Principal) -> dict[str, str]:
        token = str(len(self._known))
        self._known[token] = principal
        return {HEADER: token}

    async def authenticate(self, request: Connection) -> Principal:
        return self._known.get(request.headers.get(HEADER, ""), ANONYMOUS)


@asynccontextmanager
async def client_of(
    app: Litestar, *, base_url: str = "http://probity.test", address: str = "192.0.2.10"
) -> AsyncIterator[httpx.AsyncClient]:
    """Run the application's lifespan and return a client that calls it in process."""
    async with _lifespan(app):
        transport = httpx.ASGITransport(app=app, client=(address, 40000), raise_app_exceptions=False)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
            yield client


@asynccontextmanager
async def _lifespan(app: Litestar) -> AsyncIterator[None]:
    """Start and stop the application in one task; fixtures are set up and torn down in two, which task groups do not survive."""
    started, stop = asyncio.Event(), asyncio.Event()

    async def run() -> None:
        async with app.lifespan():
            started.set()
            await stop.wait()

    task = asyncio.create_task(run())
    waiting = asyncio.create_task(started.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        task.result()
    try:
        yield
    finally:
        stop.set()
        await task


@contextmanager
def served(app: Litestar, *, tls_cert: Path | None = None, tls_key: Path | None = None, **options: Any) -> Iterator[str]:
    """Serve the application by uvicorn in a thread of its own; return its address. For streams, sockets and timeouts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = uvicorn_config(app, ServerOptions(host="127.0.0.1", port=port, grace_s=2, tls_cert=tls_cert, tls_key=tls_key), **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    deadline = 100
    while not server.started:
        if not thread.is_alive() or deadline == 0:
            raise RuntimeError("the server did not start")
        deadline -= 1
        threading.Event().wait(0.1)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
