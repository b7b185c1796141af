"""Route groups: which dialect a route speaks and who may call it. A route that does not say so stops the application."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec
from litestar import Litestar, Router
from litestar.di import Provide
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.types import ControllerRouterHandler

from probity.kernel.http.dialect import Dialect
from probity.kernel.limits import Policy

# 1 MiB is what the strictest contracts state; routes that take more say so (`body_limit=`).
BODY_LIMIT: Final[dict[Dialect, int]] = {
    Dialect.ACHILLES: 10 * 1024 * 1024,
    Dialect.AGNOX: 1_048_576,
    Dialect.SUPARBASE: 5 * 1024 * 1024,
    Dialect.BRIDGE: 4 * 1024 * 1024,
    Dialect.SENTRI: 1_048_576,
    Dialect.OWN: 4 * 1024 * 1024,
    Dialect.PAGES: 1_048_576,
}


class Access(StrEnum):
    PUBLIC = "public"
    AUTHENTICATED = "authenticated"
    PERMISSION = "permission"
    AGENT = "agent"


class UndeclaredAccess(Exception):
    """A route does not say who may call it; the application refuses to start."""


class RouteRule(msgspec.Struct, frozen=True):
    """What the gate checks before a handler runs.

    `body_limit` is in bytes; under a pin its contract's holds, unless the route declared its own (`has_own_body_limit`). `streamed` bodies
    have no total time limit, only one between chunks. `csrf` is off for the few writes that must work with a stale cookie (sign-in,
    sign-out). `tiered` is off for routes outside their dialect's general budget. `pinned_limits` hold instead of `limits` under the pin
    they name. `or_agent` also lets agents in, without the permission; the service decides which.
    """

    dialects: tuple[Dialect, ...]
    access: Access
    permission: str | None
    limits: tuple[Policy, ...]
    pinned_limits: Mapping[Dialect, tuple[Policy, ...]]
    body_limit: int
    has_own_body_limit: bool
    streamed: bool
    csrf: bool
    tiered: bool
    or_agent: bool

    @property
    def dialect(self) -> Dialect:
        return self.dialects[0]

    def limits_under(self, pin: Dialect | None) -> tuple[Policy, ...]:
        """Return the budgets that a call under this pin, or at the root, is counted against."""
        return self.limits if pin is None else self.pinned_limits.get(pin, self.limits)

    def body_limit_under(self, pin: Dialect | None) -> int:
        """Return how many bytes a call under this pin, or at the root, may send."""
        return self.body_limit if pin is None or self.has_own_body_limit else BODY_LIMIT[pin]


def route_group(
    dialect: Dialect,
    path: str,
    handlers: Sequence[ControllerRouterHandler],
    *,
    also: Iterable[Dialect] = (),
    dependencies: Mapping[str, Provide] | None = None,
    tags: Sequence[str] | None = None,
    **opt: Any,
) -> Router:
    """Return a router whose handlers speak `dialect`, and `also` others where contracts share the path.

    Each handler declares who may call it: `permission="agent.list"`, `authenticated=True`, `public=True` or `agent=True`; a group may
    declare it for all its handlers. With `or_agent=True` agents pass beside holders of the permission. Further per handler or group:
    `limits=(Policy, …)`, `pinned_limits={Dialect: (Policy, …)}`, `body_limit=bytes`, `streamed=True`, `csrf=False`, `tiered=False`.
    """
    opt["dialects"] = (dialect, *also)
    return Router(path, route_handlers=handlers, opt=opt, dependencies=dependencies, tags=tags)


def rule_of(handler: BaseRouteHandler) -> RouteRule:
    """Return what a handler declared.

    Raises:
        UndeclaredAccess: it declared no access, or more than one, or no dialect.
    """
    opt = handler.opt
    name = f"{handler.handler_name} ({', '.join(sorted(handler.paths))})"
    dialects: tuple[Dialect, ...] = tuple(opt.get("dialects", ()))
    if not dialects:
        raise UndeclaredAccess(f"{name} has no dialect; register it through route_group()")
    permission: str | None = opt.get("permission")
    declared = [
        access
        for access, present in (
            (Access.PERMISSION, permission is not None),
            (Access.AUTHENTICATED, opt.get("authenticated", False)),
            (Access.PUBLIC, opt.get("public", False)),
            (Access.AGENT, opt.get("agent", False)),
        )
        if present
    ]
    if len(declared) != 1:
        raise UndeclaredAccess(f"{name} must declare exactly one of permission=, authenticated=, public=, agent=")
    return RouteRule(
        dialects=dialects,
        access=declared[0],
        permission=permission,
        limits=tuple(opt.get("limits", ())),
        pinned_limits=opt.get("pinned_limits", {}),
        body_limit=opt.get("body_limit", BODY_LIMIT[dialects[0]]),
        has_own_body_limit="body_limit" in opt,
        streamed=opt.get("streamed", False),
        csrf=opt.get("csrf", True),
        or_agent=opt.get("or_agent", False),
        tiered=opt.get("tiered", True),
    )


def _answers_options(handler: BaseRouteHandler) -> bool:
    """Return whether this is the handler that the framework adds to answer OPTIONS."""
    return isinstance(handler, HTTPRouteHandler) and handler.http_methods == {"OPTIONS"} and handler.fn.__name__ == "options_handler"


def all_rules(app: Litestar) -> dict[BaseRouteHandler, RouteRule]:
    """Return the rule of every handler of the application.

    Raises:
        UndeclaredAccess: naming every handler that lacks a declaration.
    """
    rules: dict[BaseRouteHandler, RouteRule] = {}
    wrong: list[str] = []
    for route in app.routes:
        handlers = getattr(route, "route_handlers", None) or [route.route_handler]  # type: ignore[union-attr]
        for handler in handlers:
            if _answers_options(handler):
                continue
            try:
                rules[handler] = rule_of(handler)
            except UndeclaredAccess as error:
                wrong.append(str(error))
    if wrong:
        raise UndeclaredAccess("; ".join(wrong))
    return rules
