"""uvicorn as Probity runs it: no trust in forwarded headers, no patience with callers that never finish their headers."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MAX_HEAD_BYTES = 64 * 1024
_HEAD_TIMEOUT_S = 10.0


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where to listen and how to stop. With a certificate the server speaks https itself. `grace_s`: wait for open requests at the end."""

    host: str
    port: int
    grace_s: float
    tls_cert: Path | None = None
    tls_key: Path | None = None
    workers: int = 1


class PatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 that gives a caller ten seconds and 64 KiB for its request line and headers, on every request of a connection.

    uvicorn limits neither, so a few thousand callers that send a byte now and then would hold every connection.
    """

    head_timeout_s: float = _HEAD_TIMEOUT_S
    max_head_bytes: int = _MAX_HEAD_BYTES

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it as well
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_timer is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None and self._head_bytes > self.max_head_bytes:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._refuse, b"408 Request Timeout")

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: bytes) -> None:
        self._stop_timer()
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()


def uvicorn_config(
    app: str | Callable[..., Any], options: ServerOptions, *, protocol: type[PatientProtocol] = PatientProtocol, **more: Any
) -> uvicorn.Config:
    """Return uvicorn's configuration. `app` is the application, or with several workers the import string of its factory."""
    return uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        workers=options.workers,
        http=protocol,
        ws="websockets-sansio",
        # The gate reads forwarded headers itself, from proxies that the operator named. uvicorn would believe any local one.
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        lifespan="on",
        timeout_keep_alive=60,
        timeout_graceful_shutdown=max(1, round(options.grace_s)),
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
        **more,
    )
