"""Logs and metrics: structured lines with the request's id, tenant and caller; secrets scrubbed; Prometheus figures."""

import logging
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from probity.kernel.secret import Secret

# Text that must not reach a log whoever wrote it: addresses with passwords, tokens, keys. Source: dataguard.md §3.2.
_REDACTIONS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"\b(?:postgres(?:ql)?|mysql|mongodb(?:\+srv)?|rediss?|amqps?)://[^\s\"'<>]+", re.IGNORECASE), "[REDACTED_DB_URL]"),
    (re.compile(r"\b[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\b"), "[REDACTED_KEY]"),
    (re.compile(r"\b(?:sk-or-[A-Za-z0-9_-]{16,}|sk-[A-Za-z0-9_-]{20,}|re_[A-Za-z0-9_-]{20,})"), "[REDACTED_KEY]"),
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=_-]{20,}"), "[REDACTED_SECRET]"),
    (re.compile(r"\bgh[pousr]_[A-Za-z0-9]{20,}"), "[REDACTED_TOKEN]"),
    (re.compile(r"\b(?:pa_|ak_|acht_|pk_live_|sbp_|sbe_)[A-Za-z0-9_-]{16,}"), "[REDACTED_TOKEN]"),
    (re.compile(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}"), "[REDACTED_HASH]"),
    (re.compile(r"\$argon2(?:id|i|d)\$[^\s\"']+"), "[REDACTED_HASH]"),
    (re.compile(r"(?<![A-Za-z0-9+/_=-])(?:[A-Fa-f0-9]{64}|[A-Za-z0-9+/_-]{43}=?)(?![A-Za-z0-9+/_=-])"), "[REDACTED_KEY]"),
)
_QUERY_TOKEN: Final = re.compile(
    r"([?&](?:[a-z_-]*(?:token|secret|key|code|password|signature|sig))=)[^&\s\"'#]+",
    re.IGNORECASE,
)
# Quick tests that decide whether the expressions above need to run at all; most log values match none.
_SUSPICIOUS: Final = re.compile(
    r"://|[?&][^=\s]+=|[A-Za-z0-9+/_-]{20,}|\$2|\$argon2|sk-|re_|gh[pousr]_|pa_|ak_|sbp_|[^.\s]{10,}\.[^.\s]{10,}\."
)
_SECRET_FIELD: Final = re.compile(
    r"(?:^|_)(?:password|secret|token|authorization|cookie|api_?key|private_key|credential)s?$", re.IGNORECASE
)
# Ids and digests that are facts, not secrets; a SHA-256 of an artifact has the shape of a key.
_PLAIN_FIELDS: Final = frozenset({"request_id", "sha256", "head", "hash", "digest", "level", "timestamp", "logger"})


def scrub(text: str) -> str:
    """Return `text` without database addresses, tokens, keys, hashes, and values of token-like query parameters."""
    if len(text) < 8 or not _SUSPICIOUS.search(text):
        return text
    text = _QUERY_TOKEN.sub(r"\1***", text)
    for pattern, replacement in _REDACTIONS:
        text = pattern.sub(replacement, text)
    return text


def _scrub_event(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if name in _PLAIN_FIELDS:
            continue
        event[name] = "***" if _SECRET_FIELD.search(name) and value is not None else _scrub_value(value)
    return event


def _scrub_value(value: Any) -> Any:
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Secret):
        return "***"
    if isinstance(value, Mapping):
        return {key: "***" if _SECRET_FIELD.search(str(key)) else _scrub_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_scrub_value(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    # Bytes, errors and whatever else: the renderer would print them as they are.
    return scrub(str(value))


def configure_logging(*, level: str = "info", json: bool = True, stream: Any = None) -> None:
    """Send every log line, ours and the libraries', through one pipeline to standard error.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        json: one JSON object a line; otherwise coloured text for people.
    """
    shared: list[Callable[..., Any]] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
    ]
    last: list[Any] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        _scrub_event,
        structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
    ]
    structlog.configure(
        processors=[*shared[:-1], structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=last, foreign_pre_chain=shared))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "litestar"):
        library = logging.getLogger(name)
        library.handlers = []
        library.propagate = True
    # The gate writes its own access line, with the request id and without query strings.
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, root.level))


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """Every figure that the kernel reports. One per application, so that tests do not share counters."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.requests = Histogram(
            "probity_http_request_duration_seconds",
            "Time to answer an HTTP request, by method, route and status",
            ("method", "route", "status"),
            registry=self.registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )
        self.refused = Counter(
            "probity_http_rate_limited_total", "Requests refused by a rate limit, by policy", ("policy",), registry=self.registry
        )
        self.bugs = Counter("probity_http_bugs_total", "Requests that ended in an error without a kind", registry=self.registry)
        self.limiter_failures = Counter(
            "probity_limiter_failures_total", "Rate limit checks that were let through because Redis did not answer", registry=self.registry
        )

        self._observers: dict[tuple[str, str, int], Callable[[float], None]] = {}

    def observe_request(self, method: str, route: str, status: int, took_s: float) -> None:
        """Count one answered request. Methods that no route has are counted as one: callers make them up."""
        key = (method if method in _METHODS else "OTHER", route, status)
        observe = self._observers.get(key)
        if observe is None:
            observe = self._observers[key] = self.requests.labels(key[0], route, str(status)).observe
        observe(took_s)

    def counter(self, name: str, about: str, labels: tuple[str, ...] = ()) -> Counter:
        """Return a new counter `probity_<name>` for a domain."""
        return Counter(f"probity_{name}", about, labels, registry=self.registry)

    def gauge(self, name: str, about: str, labels: tuple[str, ...] = ()) -> Gauge:
        """Return a new gauge `probity_<name>` for a domain."""
        return Gauge(f"probity_{name}", about, labels, registry=self.registry)
