"""Probes and metrics: is the process up, may it get traffic, what does it count."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from litestar import Response, Router, get
from litestar.di import NamedDependency
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

import probity
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.groups import route_group
from probity.kernel.http.shutdown import Shutdown
from probity.kernel.telemetry import Metrics, scrub

_WHOLE_CHECK_S: Final = 2.0
_STARTED: Final = time.monotonic()
Check = Callable[[], Awaitable[object]]


class Features(msgspec.Struct, frozen=True):
    """What the operator switched on, as the health reply names it."""

    email: bool
    billing: bool = False
    observability: bool = False


class Readiness:
    """Runs every check at once, within two seconds, and names those that fail."""

    def __init__(self, checks: Mapping[str, Check], shutdown: Shutdown) -> None:
        self._checks = dict(checks)
        self._shutdown = shutdown

    @property
    def is_gated(self) -> bool:
        """Whether the server is going away and wants no more traffic."""
        return self._shutdown.is_draining

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._checks)

    async def failures(self) -> dict[str, str]:
        names = list(self._checks)
        results = await asyncio.gather(*(_outcome(self._checks[name]) for name in names))
        return {name: text for name, text in zip(names, results, strict=True) if text is not None}


async def _outcome(check: Check) -> str | None:
    try:
        async with asyncio.timeout(_WHOLE_CHECK_S):
            await check()
    except TimeoutError:
        return "no answer within 2 seconds"
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the reason that this server is not ready
        return scrub(str(error)) or type(error).__name__
    return None


class HealthReply(msgspec.Struct, frozen=True):
    """The union of both contracts that document this path."""

    status: str
    db: bool
    email: bool
    billing: bool
    observability: bool
    version: str
    service: str
    timestamp: datetime


@get("/healthz", public=True, summary="The process is up")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@get("/readyz", public=True, summary="The server may get traffic")
async def readyz(readiness: NamedDependency[Readiness]) -> Response[dict[str, Any]]:
    if readiness.is_gated:
        return Response({"status": "not_ready", "reason": "manual_gate"}, status_code=503)
    failures = await readiness.failures()
    if failures:
        return Response({"status": "not_ready", "failures": failures}, status_code=503)
    return Response({"status": "ready"})


@get("/metrics", public=True, summary="Figures for Prometheus", media_type="text/plain")
async def metrics(metrics: NamedDependency[Metrics]) -> Response[bytes]:
    return Response(generate_latest(metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})


@get("/api/health", public=True, summary="Whether the parts of the server work")
async def health(readiness: NamedDependency[Readiness], features: NamedDependency[Features]) -> Response[HealthReply]:
    has_database = "postgres" not in await readiness.failures()
    reply = HealthReply(
        status="ok" if has_database else "degraded",
        db=has_database,
        email=features.email,
        billing=features.billing,
        observability=features.observability,
        version=probity.__version__,
        service="Probity",
        timestamp=datetime.now(UTC),
    )
    return Response(reply, status_code=200 if has_database else 503, headers={"cache-control": "no-store"})


class UnionHealth(msgspec.Struct, frozen=True):
    """What Agnox and Sentri document for `/health`, together."""

    ok: bool
    status: str
    timestamp: datetime
    service: str
    version: str
    uptime: float
    checks: dict[str, str]


@get("/health", public=True, tiered=False, summary="Whether the server works, for monitors of Agnox and Sentri")
async def plain_health(readiness: NamedDependency[Readiness]) -> Response[UnionHealth]:
    failures = await readiness.failures()
    checks = {("database" if name == "postgres" else name): "unhealthy" if name in failures else "healthy" for name in readiness.names}
    reply = UnionHealth(
        ok=not failures,
        status="degraded" if failures else "healthy",
        timestamp=datetime.now(UTC),
        service="Probity",
        version=probity.__version__,
        uptime=round(time.monotonic() - _STARTED, 1),
        checks=checks,
    )
    return Response(reply, status_code=503 if failures else 200, headers={"cache-control": "no-store"})


def routes() -> list[Router]:
    return [
        route_group(Dialect.BRIDGE, "/", [healthz, readyz, metrics], tags=["Service"]),
        route_group(Dialect.SUPARBASE, "/", [health], also=(Dialect.ACHILLES,), tags=["Service"]),
        route_group(Dialect.AGNOX, "/", [plain_health], also=(Dialect.SENTRI,), tags=["Service"]),
    ]
