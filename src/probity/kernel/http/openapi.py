"""The OpenAPI 3.1 document: made from the routes when it is first asked for, with who may call what and every error that can come back."""

import threading
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from litestar import Litestar, Request, Response, Router, get
from litestar.handlers import BaseRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.routes import HTTPRoute
from litestar.types import ControllerRouterHandler

import probity
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.docs import docs_page
from probity.kernel.http.groups import Access, RouteRule, route_group

_SCHEMES: Final[dict[str, dict[str, str]]] = {
    "session": {"type": "apiKey", "in": "cookie", "name": "probity_session", "description": "Session of a signed-in browser"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "Sign-in token, or an API key (`pa_…`)"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "API key"},
    "agentSecret": {"type": "apiKey", "in": "header", "name": "X-Agent-Secret", "description": "An agent's secret"},
}
_USER: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"session": []}, {"apiKey": []}]
_AGENT: Final[list[dict[str, list[str]]]] = [{"agentSecret": []}]

_TEXT: Final = {"type": "string"}
_FIELDS: Final = {
    "type": "array",
    "items": {"type": "object", "properties": {"path": _TEXT, "message": _TEXT}, "required": ["path", "message"]},
}
_ERROR_SCHEMA: Final[dict[Dialect, dict[str, Any]]] = {
    Dialect.ACHILLES: {
        "type": "object",
        "properties": {"success": {"const": False}, "error": _TEXT, "details": _FIELDS},
        "required": ["success", "error"],
    },
    Dialect.AGNOX: {
        "type": "object",
        "properties": {"success": {"type": "boolean"}, "error": _TEXT, "message": _TEXT},
        "required": ["error"],
    },
    Dialect.SUPARBASE: {"type": "object", "properties": {"category": _TEXT, "message": _TEXT, "field": _TEXT}, "required": ["category"]},
    Dialect.BRIDGE: {
        "type": "object",
        "properties": {"error": _TEXT, "correlation_id": _TEXT, "fields": _FIELDS},
        "required": ["error"],
    },
    Dialect.SENTRI: {"type": "object", "properties": {"error": _TEXT, "fields": _FIELDS}, "required": ["error"]},
    Dialect.OWN: {
        "type": "object",
        "properties": {
            "type": _TEXT,
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": _TEXT,
            "error": _TEXT,
            "code": _TEXT,
            "request_id": _TEXT,
            "errors": _FIELDS,
        },
        "required": ["type", "title", "status", "detail", "error", "code", "request_id"],
    },
    Dialect.PAGES: {"type": "string"},
}
_MEDIA: Final = {Dialect.OWN: "application/problem+json", Dialect.PAGES: "text/html"}
_MEANING: Final = {
    "400": "The input is wrong",
    "401": "Nobody is signed in, or the credential is not valid",
    "403": "The caller may not do this",
    "404": "There is no such thing, or it belongs to another organization",
    "409": "The state of things does not allow this now",
    "410": "It is no longer there",
    "412": "Something must be done first",
    "413": "The body is too large",
    "415": "The body is of a type that this route does not read",
    "429": "Too many requests; `Retry-After` says when to try again",
    "503": "Cannot be done now and may pass later",
}


class _Unserved(Router):
    """Where the framework would register its own documentation pages; ours are below."""

    def register(self, value: ControllerRouterHandler) -> list[Any]:
        return []


def openapi_config() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Probity",
        version=probity.__version__,
        description="One assurance control plane: endpoints of documented contracts and Probity's own over one engine.",
        openapi_router=_Unserved("/schema", route_handlers=[]),
        use_handler_docstrings=True,
    )


class ApiDocument:
    """The document and its page, made once, when first asked for (over a second with all routes; hence in a thread)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._document: dict[str, Any] | None = None

    def of(self, app: Litestar, rules: Mapping[BaseRouteHandler, RouteRule]) -> dict[str, Any]:
        with self._lock:
            if self._document is None:
                self._document = _complete(app.openapi_schema.to_schema(), app, rules)
            return self._document


def _complete(document: dict[str, Any], app: Litestar, rules: Mapping[BaseRouteHandler, RouteRule]) -> dict[str, Any]:
    """Add to what the framework knows: credentials, permissions, dialects, and the errors of each route in its dialect's shape."""
    components = document.setdefault("components", {})
    components["securitySchemes"] = _SCHEMES
    components.setdefault("schemas", {}).update({f"Error_{dialect}": schema for dialect, schema in _ERROR_SCHEMA.items()})
    for route in app.routes:
        if not isinstance(route, HTTPRoute):
            continue
        for handler in route.route_handlers:
            for method in handler.http_methods:
                operation = document["paths"].get(route.path_format or "/", {}).get(str(method).lower())
                if operation is not None and handler in rules:
                    _complete_operation(operation, rules[handler], has_body=handler.parsed_data_field is not None)
    return document


def _complete_operation(operation: dict[str, Any], rule: RouteRule, *, has_body: bool) -> None:
    operation["x-dialects"] = [str(dialect) for dialect in rule.dialects]
    operation["x-access"] = rule.permission or str(rule.access)
    statuses = {"400", "404", "409", "429", "503"}
    if rule.access is Access.PUBLIC:
        operation["security"] = []
    else:
        operation["security"] = _AGENT if rule.access is Access.AGENT else [*_USER, *(_AGENT if rule.or_agent else [])]
        statuses |= {"401", "403"}
    if has_body:
        statuses |= {"413", "415"}
    content = {_MEDIA.get(rule.dialect, "application/json"): {"schema": {"$ref": f"#/components/schemas/Error_{rule.dialect}"}}}
    responses = operation.setdefault("responses", {})
    # The framework documents its own shape for 400, which no route answers with.
    responses.pop("400", None)
    for status in sorted(statuses):
        responses.setdefault(status, {"description": _MEANING[status], "content": content})


def routes(document: ApiDocument, rules: Mapping[BaseRouteHandler, RouteRule]) -> list[Router]:
    """Return the routes of the document and of its page. `rules` is filled when the application is complete."""

    @get("/openapi.json", public=True, include_in_schema=False, sync_to_thread=True)
    def openapi_json(request: Request[Any, Any, Any]) -> Response[bytes]:
        return Response(msgspec.json.encode(document.of(request.app, rules)), media_type="application/vnd.oai.openapi+json")

    @get("/docs", public=True, include_in_schema=False, sync_to_thread=True)
    def docs(request: Request[Any, Any, Any]) -> Response[str]:
        return Response(docs_page(document.of(request.app, rules)), media_type="text/html")

    return [route_group(Dialect.OWN, "/", [openapi_json]), route_group(Dialect.PAGES, "/", [docs])]
