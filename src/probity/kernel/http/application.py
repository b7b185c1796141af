"""Puts the pieces together: routes and services in, one ASGI application with the gate in front out."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

import msgspec
from litestar import Litestar, Request, Response
from litestar.di import Provide
from litestar.exceptions import HTTPException, ValidationException
from litestar.handlers import BaseRouteHandler
from litestar.types import ControllerRouterHandler

from probity.kernel.clock import Clock
from probity.kernel.errors import FieldError, Invalid, NotFound, ProbityError, Unauthenticated, UnsupportedMedia
from probity.kernel.http.asgi import ASGIApp, Scope
from probity.kernel.http.auth import Authenticator, provide_principal
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.exchange import exchange_of
from probity.kernel.http.failures import ClientGone, InvalidInput
from probity.kernel.http.gate import ErrorPages, Gate
from probity.kernel.http.groups import RouteRule, all_rules
from probity.kernel.http.hot import HotRoute
from probity.kernel.http.openapi import ApiDocument, openapi_config
from probity.kernel.http.openapi import routes as openapi_routes
from probity.kernel.http.reply import failure_reply
from probity.kernel.http.request import ProbityRequest
from probity.kernel.http.settings import HttpSettings
from probity.kernel.http.shutdown import Shutdown
from probity.kernel.limits import Limiter, Policy
from probity.kernel.telemetry import Metrics


class Running(msgspec.Struct, frozen=True):
    """What exists only while the application runs: made at start, when the database is open.

    `services` are handed to handlers by the names under which they ask (`fleet: NamedDependency[FleetService]`); `authenticator` is one of
    those names, for streams that outlive the credential they were opened with.
    """

    services: Mapping[str, object]
    authenticator: Authenticator
    limiter: Limiter
    hot_routes: Sequence[HotRoute] = ()


def assemble(
    *,
    routes: Sequence[ControllerRouterHandler],
    service_names: Sequence[str],
    start: Callable[[], AbstractAsyncContextManager[Running]],
    settings: HttpSettings,
    clock: Clock,
    metrics: Metrics,
    shutdown: Shutdown,
    tiers: Mapping[Dialect, Sequence[Policy]] | None = None,
    pages: ErrorPages | None = None,
    **options: Any,
) -> Litestar:
    """Return the application.

    Args:
        start: opens databases and makes the services; closes them at shutdown.
        tiers: what every route of a dialect is counted against, before its own limits.
        pages: draws the error pages of the pages' own dialect.

    Raises:
        UndeclaredAccess: a route does not say who may call it.
    """
    services: dict[str, object] = {}
    provided = {name: Provide(_looked_up(services, name), sync_to_thread=False) for name in (*service_names, "authenticator")}
    provided["principal"] = Provide(provide_principal, sync_to_thread=False)

    def on_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        if isinstance(error, ClientGone):
            # Nobody reads a reply, and this is no fault of the server: the gate notes it as abandoned.
            raise error
        known = _as_domain_error(error)
        reply = failure_reply(cast("Scope", request.scope), exchange_of(request.scope), known, clock)
        headers = [(name.decode(), value.decode("latin-1")) for name, value in reply.headers]
        return Response(reply.body, status_code=reply.status, headers=dict(headers), media_type=reply.media_type.decode().partition(";")[0])

    @asynccontextmanager
    async def run(_: Litestar) -> AsyncIterator[None]:
        restore = shutdown.chain_signals(asyncio.get_running_loop())
        try:
            async with start() as running:
                services.update(running.services)
                services["authenticator"] = running.authenticator
                gate.open(running.authenticator, running.limiter, running.hot_routes)
                yield
                shutdown.stop()
        finally:
            restore()

    rules: dict[BaseRouteHandler, RouteRule] = {}
    app = Litestar(
        route_handlers=[*routes, *openapi_routes(ApiDocument(), rules)],
        dependencies=provided,
        lifespan=[run],
        exception_handlers={Exception: on_error, HTTPException: on_error},
        request_class=ProbityRequest,
        # The gate holds each route's own limit.
        request_max_body_size=None,
        openapi_config=openapi_config(),
        logging_config=None,
        **options,
    )
    rules |= all_rules(app)
    inner = cast("ASGIApp", app.asgi_handler)
    gate = Gate(app, inner, rules=rules, settings=settings, tiers=tiers or {}, clock=clock, metrics=metrics, pages=pages)
    app.asgi_handler = cast("Any", gate)
    return app


def _looked_up(services: Mapping[str, object], name: str) -> Callable[[], object]:
    """Return a provider that finds a service when it is asked for: services are made after the routes."""
    return lambda: services[name]


def _as_domain_error(error: Exception) -> Exception:
    """Turn what the framework raises into our kinds; anything else stays what it is, a bug."""
    match error:
        case ProbityError():
            return error
        case ValidationException(extra=extra):
            fields = tuple(FieldError(str(item.get("key", "")), str(item.get("message", ""))) for item in extra or ())  # type: ignore[union-attr]
            return InvalidInput("the request has wrong parameters", fields=fields)
        case HTTPException(status_code=404):
            return NotFound("not found")
        case HTTPException(status_code=401):
            return Unauthenticated("authentication required")
        case HTTPException(status_code=415):
            return UnsupportedMedia(error.detail)
        case HTTPException(status_code=status) if 400 <= status < 500:
            return Invalid(error.detail)
        case _:
            return error
