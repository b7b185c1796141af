"""Who is calling: the seam between the gate and the domains that know credentials."""

from collections.abc import Sequence
from typing import Any, Protocol

from litestar import Request
from litestar.connection import ASGIConnection

from probity.kernel.errors import Denied, Unauthenticated
from probity.kernel.http.exchange import exchange_of
from probity.kernel.http.groups import Access, RouteRule
from probity.kernel.principal import ANONYMOUS, PermissionMissing, Principal, PrincipalKind

Connection = ASGIConnection[Any, Any, Any, Any]


class Authenticator(Protocol):
    async def authenticate(self, request: Connection) -> Principal:
        """Return the caller, or ANONYMOUS when no credential of this kind is presented or it is not valid.

        Raises:
            Unauthenticated: the contract wants a text of its own for a bad credential. Ignored on public routes.
        """
        ...


class Authenticators:
    """Several authenticators as one: the first that knows the caller wins."""

    def __init__(self, parts: Sequence[Authenticator]) -> None:
        self._parts = tuple(parts)

    async def authenticate(self, request: Connection) -> Principal:
        for part in self._parts:
            principal = await part.authenticate(request)
            if not principal.is_anonymous:
                return principal
        return ANONYMOUS


def check_access(rule: RouteRule, principal: Principal) -> None:
    """Pass when `principal` may call a route with this rule.

    Raises:
        Unauthenticated: nobody is signed in and the route is not public.
        Denied: somebody is, but not one who may.
    """
    if rule.access is Access.PUBLIC:
        return
    if principal.is_anonymous:
        raise Unauthenticated("authentication required")
    if rule.or_agent and principal.kind is PrincipalKind.AGENT:
        return
    if rule.access is Access.AGENT and principal.kind is not PrincipalKind.AGENT:
        raise Unauthenticated("agent credentials required")
    if rule.access is Access.AUTHENTICATED and principal.kind is PrincipalKind.AGENT:
        # An agent's secret opens the agent routes and nothing of its organization's users.
        raise Denied("agents cannot call this")
    if rule.permission is not None and not principal.has(rule.permission):
        raise PermissionMissing(rule.permission)


def provide_principal(request: Request[Any, Any, Any]) -> Principal:
    return exchange_of(request.scope).principal
