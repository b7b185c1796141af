"""How every reply leaves: with the headers that all replies carry, counted, and with a line in the log."""

import time
from typing import Final
from urllib.parse import unquote

import structlog

from probity.kernel.clock import Clock
from probity.kernel.errors import ProbityError
from probity.kernel.http import cors, csrf
from probity.kernel.http.asgi import Message, Scope, Send
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.exchange import Exchange
from probity.kernel.http.headers import needs_nonce, new_nonce, security_headers
from probity.kernel.http.render import Case, WireReply, render
from probity.kernel.http.settings import HttpSettings
from probity.kernel.telemetry import Metrics

_REPEATABLE: Final = frozenset({b"set-cookie", b"vary"})
log = structlog.get_logger("probity.http")
_PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics", "/health", "/api/health", "/static/{name}"})


class Reply:
    """The `send` that the inside sees: adds what every reply carries, and keeps the figures for the access log."""

    def __init__(self, send: Send, scope: Scope, exchange: Exchange, settings: HttpSettings, metrics: Metrics) -> None:
        self._send = send
        self._scope = scope
        self._exchange = exchange
        self._settings = settings
        self._metrics = metrics
        self._began = time.perf_counter()
        self._method: str = scope["method"]
        self.template = "unknown"
        self.quiet = False
        self.head_only = False
        self.started = False
        self.abandoned = False
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            message["headers"] = self._complete(list(message.get("headers", [])))
            await self._send(message)
            if self.head_only:
                # The reply ends with its headers, so that a stream does not go on for somebody who asked for none of it.
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        elif not self.head_only:
            await self._send(message)

    async def send(self, reply: WireReply) -> None:
        """Send a whole reply."""
        headers = list(reply.headers)
        if reply.body or reply.status not in (204, 304):
            headers += [(b"content-type", reply.media_type), (b"content-length", str(len(reply.body)).encode())]
        await self({"type": "http.response.start", "status": reply.status, "headers": headers})
        await self({"type": "http.response.body", "body": reply.body, "more_body": False})

    def _complete(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        exchange = self._exchange
        present = {name.lower() for name, _ in headers}
        nonce = exchange.nonce
        if nonce is None and needs_nonce(exchange.dialect):
            nonce = new_nonce()
        https = exchange.scheme == "https" or self._settings.is_https
        added = [
            *security_headers(exchange.dialect, https=https, nonce=nonce),
            *exchange.headers,
            *cors.headers(self._scope, exchange, self._settings),
        ]
        headers += [pair for pair in added if pair[0] not in present or pair[0] in _REPEATABLE]
        if exchange.pin is Dialect.SENTRI:
            headers += self._csrf_headers(https=https)
        headers.append((b"x-request-id", exchange.request_id.encode()))
        if self.status == 408:
            headers.append((b"connection", b"close"))
        return headers

    def _csrf_headers(self, *, https: bool) -> list[tuple[bytes, bytes]]:
        """Sentri hands its token out with any reply, whatever was asked; to a front end on another site, that cannot read our cookies, also
        in a header. Source: webtest.md §2.4."""
        cookies = [split_cookies(value.decode("latin-1")) for name, value in self._scope["headers"] if name == b"cookie"]
        token = next((found[csrf.CSRF_COOKIE] for found in cookies if found.get(csrf.CSRF_COOKIE)), None)
        fresh = token is None
        token = token or csrf.new_token()
        cross_site = self._exchange.serves_other_site
        headers = []
        if fresh:
            headers.append((b"set-cookie", csrf.new_cookie(token, csrf.cookie_suffix(https=https, cross_site=cross_site)).encode()))
        if cross_site and token.isascii() and token.isprintable():
            headers.append((b"x-csrf-token", token.encode()))
        return headers

    def finish(self) -> None:
        took_s = time.perf_counter() - self._began
        status = 499 if self.abandoned else self.status
        self._metrics.observe_request(self._method, self.template, status, took_s)
        if status == 500:
            self._metrics.bugs.inc()
        # What agents and probes ask all day would drown the rest.
        write = log.debug if self.quiet or self.template in _PROBES else log.info
        write(
            "http.request",
            method=self._method,
            path=self._scope["path"],
            status=status,
            took_ms=round(took_s * 1000, 1),
            client_ip=self._exchange.client_ip,
        )


def failure_reply(scope: Scope, exchange: Exchange, error: Exception, clock: Clock) -> WireReply:
    """Return the reply for an error. One without a kind is a bug: logged here with its traceback, and nothing of it leaves the server."""
    known = error if isinstance(error, ProbityError) else None
    if known is None:
        log.error("http.bug", exc_info=error, method=scope["method"], path=scope["path"])
    return render(
        Case(
            error=known,
            dialect=exchange.dialect,
            request_id=exchange.request_id,
            method=scope["method"],
            path=scope["path"],
            now=clock.now(),
        ),
        exchange.page,
    )


def split_cookies(header: str | None) -> dict[str, str]:
    """Split a Cookie header; quotes are stripped, anything odd is skipped."""
    if header is None:
        return {}
    pairs = (part.partition("=") for part in header.split(";"))
    return {name.strip(): unquote(value.strip().strip('"')) for name, _, value in pairs if name.strip()}
