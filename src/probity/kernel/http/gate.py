"""In front of every request: identity, pins, limits and headers, before any handler runs. Also where the hot routes are answered."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import structlog
from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.exceptions import MethodNotAllowedException, NotFoundException
from litestar.handlers import BaseRouteHandler
from litestar.utils import normalize_path

from probity.kernel.clock import Clock
from probity.kernel.errors import Invalid, Unauthenticated, Unavailable
from probity.kernel.http import bodies, cors, csrf, unknown
from probity.kernel.http.asgi import ASGIApp, Receive, Scope, Send
from probity.kernel.http.auth import Authenticator, Connection, check_access
from probity.kernel.http.dialect import PINNABLE, Dialect, dialect_of_path
from probity.kernel.http.exchange import Exchange, bind
from probity.kernel.http.failures import ClientGone, LimitReached
from probity.kernel.http.groups import Access, RouteRule
from probity.kernel.http.hot import HotReply, HotRequest, HotRoute, HotTable
from probity.kernel.http.peers import limit_key, peer_of
from probity.kernel.http.render import Case, WireReply, limit_headers
from probity.kernel.http.reply import Reply, failure_reply, split_cookies
from probity.kernel.http.settings import HttpSettings
from probity.kernel.limits import Limiter, Per, Policy
from probity.kernel.telemetry import Metrics

log = structlog.get_logger("probity.http")
_COMPAT: Final = "/compat/"
_MAX_REQUEST_ID: Final = 128
# No route is longer, and the router remembers the paths that it has seen.
_MAX_PATH: Final = 2048

# Draws the page for a failed request; its theme and its reader are in the scope.
ErrorPages = Callable[[Scope, Case], WireReply]


class Gate:
    """Pure ASGI. Wraps the application; every reply, whatever happens inside, leaves through `Reply`."""

    def __init__(
        self,
        app: Litestar,
        inner: ASGIApp,
        *,
        rules: Mapping[BaseRouteHandler, RouteRule],
        settings: HttpSettings,
        tiers: Mapping[Dialect, Sequence[Policy]],
        clock: Clock,
        metrics: Metrics,
        pages: ErrorPages | None = None,
    ) -> None:
        self._app = app
        self._inner = inner
        self._rules = rules
        self._settings = settings
        self._tiers = tiers
        self.hot_routes = ()
        self._clock = clock
        self._metrics = metrics
        self._pages = pages
        self._hosts = {f"{dialect}.localhost": dialect for dialect in PINNABLE} | dict(settings.compat_hosts)

    def open(self, authenticator: Authenticator, limiter: Limiter, hot_routes: Sequence[HotRoute]) -> None:
        """Let requests in. Called once, when everything that they need has started."""
        self._authenticator = authenticator
        self._limiter = limiter
        self.hot_routes = tuple(hot_routes)

    @property
    def hot_routes(self) -> tuple[HotRoute, ...]:
        return self._hot.routes

    @hot_routes.setter
    def hot_routes(self, routes: tuple[HotRoute, ...]) -> None:
        self._hot = HotTable(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = self._read(scope)
        if scope["type"] == "websocket":
            await self._connect(scope, receive, send, exchange)
            return
        reply = Reply(send, scope, exchange, self._settings, self._metrics)
        structlog.contextvars.bind_contextvars(request_id=exchange.request_id)
        try:
            await self._answer(scope, receive, reply, exchange)
        except ClientGone:
            reply.abandoned = True
        except Exception as error:
            if reply.started:
                log.error("http.broken_reply", exc_info=error)
                raise
            await reply.send(failure_reply(scope, exchange, error, self._clock))
        finally:
            reply.finish()
            structlog.contextvars.unbind_contextvars("request_id", "principal", "org_id")

    async def _connect(self, scope: Scope, receive: Receive, send: Send, exchange: Exchange) -> None:
        """Hand a websocket on, unless the contract that its path is pinned to has none there: then the handshake is refused."""
        if exchange.pin is None or exchange.pin in self._dialects_of(scope):
            await self._inner(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000, "reason": ""})

    def _dialects_of(self, scope: Scope) -> tuple[Dialect, ...]:
        handler, _ = self._route({**scope, "method": "GET"})
        rule = None if handler is None else self._rules.get(handler)
        return () if rule is None else rule.dialects

    def _read(self, scope: Scope) -> Exchange:
        """Read what the request says about itself, and take the pin off its path."""
        headers = scope["headers"]
        request_id = None
        for name, value in headers:
            if name == b"x-request-id":
                request_id = value.decode("latin-1").strip()
        if not request_id or len(request_id) > _MAX_REQUEST_ID or not request_id.isprintable() or not request_id.isascii():
            request_id = secrets.token_hex(16)
        client = scope["client"]
        peer = peer_of(client[0] if client else "", scope["scheme"], headers, self._settings.trusted_proxies)
        pin = self._hosts.get(peer.host.partition(":")[0].lower())
        path = scope["path"]
        pinned_by_path = False
        if path.startswith(_COMPAT):
            name, _, rest = path[len(_COMPAT) :].partition("/")
            if name in PINNABLE:
                pin = Dialect(name)
                pinned_by_path = True
                path = "/" + rest
                scope["path"] = path
                scope["raw_path"] = path.encode()
        exchange = Exchange(
            request_id=request_id,
            client_ip=peer.client_ip,
            scheme=peer.scheme,
            host=peer.host,
            pin=pin,
            dialect=pin or Dialect.OWN,
        )
        exchange.pinned_by_path = pinned_by_path
        exchange.serves_other_site = pin is Dialect.SENTRI and self._settings.has_foreign_front_end
        if self._pages is not None:
            exchange.page = partial(self._pages, scope)
        bind(scope, exchange)
        return exchange

    async def _answer(self, scope: Scope, receive: Receive, reply: Reply, exchange: Exchange) -> None:
        method = scope["method"]
        if method == "HEAD":
            # Every page that can be read can be asked about. In a scope of its own: the server must still know that no body follows.
            scope = {**scope, "method": "GET"}
            method = "GET"
            reply.head_only = True
        hot = self._hot.find(method, scope["path"])
        if hot is not None and (exchange.pin is None or exchange.pin in hot[0].dialects):
            body = await self._answer_hot(*hot, scope, receive, reply, exchange)
            if body is None:
                return
            receive = bodies.replay(body, receive)
        if method == "OPTIONS":
            exchange.dialect = exchange.pin or dialect_of_path(scope["path"])
            if (preflight := cors.preflight(scope, exchange, self._settings)) is not None:
                await reply.send(preflight)
                return
        await self._answer_routed(scope, receive, reply, exchange)

    async def _answer_hot(
        self, route: HotRoute, params: tuple[str, ...], scope: Scope, receive: Receive, reply: Reply, exchange: Exchange
    ) -> bytes | None:
        """Answer on the short way; return the body when the handler passes the request on to the normal route."""
        exchange.dialect = exchange.pin or route.dialects[0]
        reply.template = route.path
        reply.quiet = True
        bodies.check_declared_length(scope["headers"], route.body_limit)
        body = await bodies.read_all(receive, route.body_limit, self._settings.body_timeout_s)

        async def wait_disconnect() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        request = HotRequest(params, scope["headers"], scope["query_string"], body, exchange, wait_disconnect)
        answer: HotReply | None = await route.handler(request)
        if answer is None:
            return body
        await reply.send(WireReply(answer.status, answer.body, answer.content_type, answer.headers))
        return None

    async def _answer_routed(self, scope: Scope, receive: Receive, reply: Reply, exchange: Exchange) -> None:
        handler, template = self._route(scope)
        rule = None if handler is None else self._rules.get(handler)
        if handler is None or (exchange.pin is not None and (rule is None or exchange.pin not in rule.dialects)):
            await self._answer_unknown(scope, reply, exchange)
            return
        reply.template = template
        if rule is None:  # the framework's own OPTIONS handler
            await self._inner(scope, receive, reply)
            return
        if exchange.pin is None:
            exchange.dialect = rule.dialect
        body_limit = rule.body_limit_under(exchange.pin)
        bodies.check_declared_length(scope["headers"], body_limit)
        connection = _connection(scope)
        if scope["method"] not in csrf.SAFE_METHODS and rule.csrf:
            self._check_csrf(connection, exchange)
        await self._authenticate(connection, exchange, rule)
        tiers = self._tiers.get(exchange.dialect, ()) if rule.tiered else ()
        await self._count(connection, scope["method"], exchange, (*tiers, *rule.limits_under(exchange.pin)))
        check_access(rule, exchange.principal)
        if scope["method"] in csrf.SAFE_METHODS:
            # Nothing to read; streams ask here whether their reader is still there.
            await self._inner(scope, receive, reply)
            return
        limited = bodies.guarded(
            receive,
            limit_bytes=body_limit,
            timeout_s=self._settings.stream_idle_timeout_s if rule.streamed else self._settings.body_timeout_s,
            streamed=rule.streamed,
        )
        await self._inner(scope, limited, reply)

    def _route(self, scope: Scope) -> tuple[BaseRouteHandler | None, str]:
        """Ask the router early, so that what a route declared is known before its body is read. It caches the answer for itself."""
        if len(scope["path"]) > _MAX_PATH:
            return None, "unknown"
        try:
            _, handler, _, _, template = self._app.asgi_router.handle_routing(path=normalize_path(scope["path"]), method=scope["method"])
        except (NotFoundException, MethodNotAllowedException):
            return None, "unknown"
        return handler, template

    def exists(self, method: str, path: str) -> bool:
        """Return whether a route answers this method and path."""
        if len(path) > _MAX_PATH:
            return False
        try:
            self._app.asgi_router.handle_routing(path=normalize_path(path), method=method)
        except (NotFoundException, MethodNotAllowedException):
            return False
        return True

    async def _answer_unknown(self, scope: Scope, reply: Reply, exchange: Exchange) -> None:
        connection = _connection(scope)
        # An id that is none, in a path that is none, is no reason to answer otherwise.
        with suppress(Unauthenticated, Unavailable, Invalid):
            exchange.principal = await self._authenticator.authenticate(connection)
        if exchange.pin is Dialect.SENTRI and scope["method"] not in csrf.SAFE_METHODS:
            self._check_csrf(connection, exchange)
        if exchange.pin is not None and scope["path"].startswith("/api"):
            # A contract's general budget is for everything below its prefix, what it does not know included.
            await self._count(connection, scope["method"], exchange, self._tiers.get(exchange.pin, ()))
        await reply.send(unknown.answer(scope, exchange, self.exists, self._clock.now()))

    def _check_csrf(self, connection: Connection, exchange: Exchange) -> None:
        headers = connection.headers
        cookies = split_cookies(headers.get("cookie"))
        origin, token = headers.get("origin"), headers.get("x-csrf-token")
        own = self._own_origins(exchange)
        if exchange.pin is None:
            csrf.check_root(cookies, origin, token, own)
        else:
            csrf.check_pinned(exchange.pin, cookies, origin, token, own, has_cookie="cookie" in headers)

    def _own_origins(self, exchange: Exchange) -> frozenset[str]:
        """The origin that the caller used and the public one. A browser cannot be made to send another site's Host."""
        own = {f"{exchange.scheme}://{exchange.host}".lower()}
        if self._settings.public_url is not None:
            own.add(self._settings.public_url.lower().rstrip("/"))
        return frozenset(own)

    async def _authenticate(self, connection: Connection, exchange: Exchange, rule: RouteRule) -> None:
        try:
            exchange.principal = await self._authenticator.authenticate(connection)
        except (Unauthenticated, Unavailable):
            # Who is asking does not matter here: a probe must answer when the database is away.
            if rule.access is not Access.PUBLIC:
                raise
        if not exchange.principal.is_anonymous:
            structlog.contextvars.bind_contextvars(
                principal=exchange.principal.actor, org_id=str(exchange.principal.active_org) if exchange.principal.active_org else None
            )

    async def _count(self, connection: Connection, method: str, exchange: Exchange, policies: Sequence[Policy]) -> None:
        authorization = connection.headers.get("authorization", "")
        for policy in policies:
            if policy.methods and method not in policy.methods:
                continue
            if policy.bearer and not authorization.startswith(f"Bearer {policy.bearer}"):
                continue
            if policy.per is Per.MEMBER and exchange.principal.is_anonymous:
                continue
            verdict = await self._limiter.hit(policy, _limit_key(policy, exchange))
            exchange.headers = limit_headers(exchange.dialect, policy, verdict, self._clock.now()) or exchange.headers
            if not verdict.allowed:
                self._metrics.refused.labels(policy.name).inc()
                raise LimitReached(policy, verdict)


def _connection(scope: Scope) -> Connection:
    return ASGIConnection(scope)  # type: ignore[arg-type]  # the same dict under a narrower name


def _limit_key(policy: Policy, exchange: Exchange) -> str:
    principal = exchange.principal
    if policy.per in (Per.USER, Per.MEMBER) and not principal.is_anonymous:
        return f"user:{principal.user_id or principal.actor}"
    if policy.per is Per.ORGANIZATION and principal.active_org is not None:
        return f"org:{principal.active_org}"
    if policy.per is Per.AGENT and principal.agent_id is not None:
        return f"agent:{principal.agent_id}"
    return f"ip:{limit_key(exchange.client_ip)}"
