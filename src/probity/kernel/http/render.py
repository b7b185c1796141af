"""How an error looks on the wire: one function per dialect, one table. The only place that knows error shapes."""

import html
import math
from collections.abc import Callable
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

import msgspec

from probity.kernel.clock import rfc3339_millis
from probity.kernel.errors import FieldError, ProbityError, TooMany, Unauthenticated, Unavailable, status_of
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.failures import (
    BodyTooLarge,
    CsrfRejected,
    EmptyBody,
    InvalidInput,
    LimitReached,
    MalformedJson,
    UnknownPath,
    WrongMediaType,
)
from probity.kernel.limits import Policy, Verdict
from probity.kernel.principal import PermissionMissing

_JSON: Final = b"application/json"
# What the kernel says when nobody is signed in; each contract has its own words for it. Any other text of that kind is kept.
_ANONYMOUS_TEXT: Final = "authentication required"


class Case(msgspec.Struct, frozen=True):
    """One failed request: what a renderer may put on the wire."""

    error: ProbityError | None  # None: a bug; nothing about it leaves the server
    dialect: Dialect
    request_id: str
    method: str
    path: str
    now: datetime

    @property
    def status(self) -> int:
        return 500 if self.error is None else status_of(self.error)

    @property
    def message(self) -> str:
        return "internal server error" if self.error is None else self.error.message

    @property
    def fields(self) -> tuple[FieldError, ...]:
        return () if self.error is None else self.error.fields

    @property
    def is_anonymous(self) -> bool:
        return isinstance(self.error, Unauthenticated) and self.error.message == _ANONYMOUS_TEXT


class WireReply(msgspec.Struct, frozen=True):
    status: int
    body: bytes
    media_type: bytes = _JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


PageRenderer = Callable[[Case], WireReply]


def render(case: Case, page: PageRenderer | None = None) -> WireReply:
    """Return the reply for a failed request in the words and shape of its dialect; `page` draws the pages' own, where there are any."""
    if page is not None and case.dialect is Dialect.PAGES:
        drawn = page(case)
        return WireReply(drawn.status, drawn.body, drawn.media_type, (*drawn.headers, *_headers(case)))
    status, body, media_type = _RENDERERS[case.dialect](case)
    return WireReply(status, body, media_type, tuple(_headers(case)))


def _headers(case: Case) -> list[tuple[bytes, bytes]]:
    headers: list[tuple[bytes, bytes]] = []
    if isinstance(case.error, LimitReached):
        headers += limit_headers(case.dialect, case.error.policy, case.error.verdict, case.now)
    if isinstance(case.error, TooMany):
        headers.append((b"retry-after", str(case.error.retry_after_s).encode()))
    elif isinstance(case.error, Unavailable):
        headers.append((b"retry-after", b"5"))
    return headers


def limit_headers(dialect: Dialect, policy: Policy, verdict: Verdict, now: datetime) -> list[tuple[bytes, bytes]]:
    """Return the limit headers that a dialect documents for a counted reply (none for bridge and suparbase)."""
    if policy.quiet or dialect in (Dialect.BRIDGE, Dialect.SUPARBASE, Dialect.PAGES):
        return []
    reset = max(0, math.ceil(verdict.reset_s))
    window = round(policy.window_s)
    if dialect is Dialect.AGNOX:
        ends = rfc3339_millis(now + timedelta(seconds=verdict.reset_s))
        return [
            (b"x-ratelimit-limit", str(verdict.limit).encode()),
            (b"x-ratelimit-remaining", str(verdict.remaining).encode()),
            (b"x-ratelimit-reset", ends.encode()),
        ]
    headers = [(b"ratelimit-policy", f"{verdict.limit};w={window}".encode())]
    if dialect is Dialect.ACHILLES:
        return [
            *headers,
            (b"ratelimit-limit", str(verdict.limit).encode()),
            (b"ratelimit-remaining", str(verdict.remaining).encode()),
            (b"ratelimit-reset", str(reset).encode()),
        ]
    return [*headers, (b"ratelimit", f"limit={verdict.limit}, remaining={verdict.remaining}, reset={reset}".encode())]


Rendered = tuple[int, bytes, bytes]


def _json(status: int, body: dict[str, Any]) -> Rendered:
    return status, msgspec.json.encode(body), _JSON


def _named(field: FieldError) -> str:
    """Return a wrong field in one line; what is wrong with the body as a whole has no path."""
    return f"{field.path}: {field.message}" if field.path else field.message


def _listed(fields: tuple[FieldError, ...]) -> list[dict[str, str]]:
    return [{"path": field.path, "message": field.message} for field in fields]


def _achilles(case: Case) -> Rendered:
    body: dict[str, Any] = {"success": False, "error": case.message}
    match case.error:
        case None:
            body |= {"error": "Internal Server Error", "request_id": case.request_id}
        case EmptyBody():
            body["error"] = "Validation failed: the body is empty"
            body["details"] = []
        case UnknownPath():
            body |= {"error": "Not Found", "message": f"Cannot {case.method} {case.path}"}
        case BodyTooLarge():
            body["error"] = "request entity too large"
        case PermissionMissing():
            body["error"] = "Insufficient permissions"
        case _ if case.is_anonymous:
            body["error"] = "Unauthorized"
        case _ if case.fields:
            first = "; ".join(_named(field) for field in case.fields[:3])
            body |= {"error": f"Validation failed: {first}", "details": _listed(case.fields)}
    return _json(case.status, body)


def _agnox(case: Case) -> Rendered:
    fastify = {
        EmptyBody: ("FST_ERR_CTP_EMPTY_JSON_BODY", "Body cannot be empty when content-type is set to 'application/json'"),
        MalformedJson: ("FST_ERR_CTP_INVALID_JSON_BODY", "Body is not valid JSON but content-type is set to 'application/json'"),
        WrongMediaType: ("FST_ERR_CTP_INVALID_MEDIA_TYPE", "Unsupported Media Type"),
        BodyTooLarge: ("FST_ERR_CTP_BODY_TOO_LARGE", "Request body is too large"),
    }
    if type(case.error) in fastify:
        code, message = fastify[type(case.error)]
        phrase = HTTPStatus(case.status).phrase if case.status != 413 else "Payload Too Large"
        return _json(case.status, {"statusCode": case.status, "code": code, "error": phrase, "message": message})
    body: dict[str, Any] = {"success": False, "error": case.message}
    match case.error:
        case None:
            body |= {"error": "Internal Server Error", "message": "Something went wrong", "requestId": case.request_id}
        case UnknownPath():
            return _json(404, {"message": f"Route {case.method}:{case.path} not found", "error": "Not Found", "statusCode": 404})
        case LimitReached(policy=policy, verdict=verdict) as error:
            body = {
                "success": False,
                "error": "Too Many Requests",
                "message": error.message,
                "retryAfter": error.retry_after_s,
                "limit": verdict.limit,
                "window": round(policy.window_s * 1000),
            }
        case PermissionMissing():
            body |= {"error": "Insufficient permissions", "message": case.message}
        case _ if case.is_anonymous:
            text = "No API key or Bearer token provided. Use x-api-key header or Authorization: Bearer."
            body |= {"error": "Authentication required", "message": text}
        case _ if case.fields:
            text = "; ".join(_named(field) for field in case.fields)
            body |= {"error": "Invalid payload", "message": text, "details": _error_tree(case.fields)}
        case ProbityError(details=details):
            body |= {"error": details.get("title", case.message), "message": case.message}
    return _json(case.status, body)


def _error_tree(fields: tuple[FieldError, ...]) -> dict[str, Any]:
    """Return the documented tree: each level has `_errors`, each wrong field is a key with its own node."""
    tree: dict[str, Any] = {"_errors": []}
    for field in fields:
        node = tree
        for part in field.path.split(".") if field.path else []:
            node = node.setdefault(part, {"_errors": []})
        node["_errors"].append(field.message)
    return tree


_CATEGORY: Final = {
    400: "validation",
    401: "unauthorized",
    402: "plan_limit",
    403: "forbidden",
    404: "not_found",
    408: "validation",
    409: "constraint",
    410: "expired",
    412: "validation",
    413: "validation",
    415: "validation",
    422: "validation",
    429: "rate_limited",
    501: "not_configured",
    502: "server",
    503: "server",
}


def _suparbase(case: Case) -> Rendered:
    if case.error is None:
        return _json(500, {"category": "server", "message": "Something went wrong.", "requestId": case.request_id})
    category = case.error.details.get("category", _CATEGORY.get(case.status, "server"))
    body: dict[str, Any] = {"category": category, "message": case.message}
    match case.error:
        case BodyTooLarge():
            body["message"] = "Request body too large."
        case MalformedJson():
            body["message"] = "Malformed JSON body."
        case PermissionMissing():
            body["message"] = "You are not allowed to do this."
        case UnknownPath():
            body["message"] = "Not found."
        case _ if case.is_anonymous:
            body["message"] = "Sign in first."
        case _ if case.fields:
            first = case.fields[0]
            body |= {"message": first.message, "field": first.path.partition(".")[0], "issues": _listed(case.fields)}
    return _json(case.status, body)


def _bridge(case: Case) -> Rendered:
    if case.status >= 500:
        return _json(case.status, {"error": "internal server error", "correlation_id": case.request_id})
    body: dict[str, Any] = {"error": case.message}
    match case.error:
        case InvalidInput():
            body = {"error": "invalid JSON body", "fields": _listed(case.fields)}
        case MalformedJson() | EmptyBody():
            body["error"] = "invalid JSON body"
        case LimitReached():
            body["error"] = "rate limit exceeded"
        case UnknownPath():
            body["error"] = "Not Found"
        case PermissionMissing():
            body["error"] = f"{case.message} (global scope)"
    return _json(case.status, body)


def _sentri(case: Case) -> Rendered:
    body: dict[str, Any] = {"error": case.message}
    match case.error:
        case None:
            body = {"error": "Internal server error.", "requestId": case.request_id}
        case UnknownPath():
            body["error"] = "not found"
        case CsrfRejected():
            body["error"] = "CSRF token missing or invalid. Please refresh the page."
        case _ if case.is_anonymous:
            body["error"] = "Authentication required."
        case _ if case.fields:
            body |= {"error": _named(case.fields[0]), "fields": _listed(case.fields)}
    return _json(case.status, body)


def _own(case: Case) -> Rendered:
    """RFC 9457, plus `error` so that clients which read only that work everywhere."""
    code = "internal" if case.error is None else case.error.code
    body: dict[str, Any] = {
        "type": f"urn:probity:error:{code}",
        "title": HTTPStatus(case.status).phrase,
        "status": case.status,
        "detail": case.message,
        "error": case.message,
        "code": code,
        "request_id": case.request_id,
    }
    if case.fields:
        body["errors"] = _listed(case.fields)
    if case.error is not None and case.error.details:
        body["details"] = {
            name: value if isinstance(value, str | int | float | bool | None) else str(value) for name, value in case.error.details.items()
        }
    return case.status, msgspec.json.encode(body), b"application/problem+json"


def _page(case: Case) -> Rendered:
    phrase = HTTPStatus(case.status).phrase
    text = {404: "There is no page at this address."}.get(case.status, case.message)
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{phrase} - Probity</title>"
        f"<main><h1>{phrase}</h1><p>{html.escape(text)}</p><p><a href='/'>Back to the start page</a></p>"
        f"<p><small>Request {html.escape(case.request_id)}</small></p></main></html>"
    )
    return case.status, page.encode(), b"text/html; charset=utf-8"


_RENDERERS: Final[dict[Dialect, Callable[[Case], Rendered]]] = {
    Dialect.ACHILLES: _achilles,
    Dialect.AGNOX: _agnox,
    Dialect.SUPARBASE: _suparbase,
    Dialect.BRIDGE: _bridge,
    Dialect.SENTRI: _sentri,
    Dialect.OWN: _own,
    Dialect.PAGES: _page,
}
