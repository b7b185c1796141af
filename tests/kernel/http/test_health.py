"""Probes when parts fail or the server goes away."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import pytest_asyncio

from probity.kernel.http import health
from probity.kernel.http.application import Running, assemble
from probity.kernel.http.auth import Authenticators
from probity.kernel.http.health import Features, Readiness
from probity.kernel.http.settings import HttpSettings
from probity.kernel.http.shutdown import Shutdown
from probity.kernel.limits import LocalLimiter
from probity.kernel.telemetry import Metrics
from tests.fakes import FakeClock
from tests.http_app import client_of


@pytest.fixture
def shutdown() -> Shutdown:
    return Shutdown()


@pytest_asyncio.fixture
async def probed(shutdown: Shutdown, clock: FakeClock, failing: dict[str, Exception]) -> AsyncIterator[httpx.AsyncClient]:
    async def postgres() -> None:
        if "postgres" in failing:
            raise failing["postgres"]

    async def redis() -> None:
        if "redis" in failing:
            raise failing["redis"]

    metrics = Metrics()
    services = {
        "readiness": Readiness({"postgres": postgres, "redis": redis}, shutdown),
        "features": Features(email=False),
        "metrics": metrics,
    }

    @asynccontextmanager
    async def start() -> AsyncIterator[Running]:
        yield Running(services, Authenticators([]), LocalLimiter(clock))

    app = assemble(
        routes=health.routes(),
        service_names=list(services),
        start=start,
        settings=HttpSettings(),
        clock=clock,
        metrics=metrics,
        shutdown=shutdown,
    )
    async with client_of(app) as client:
        yield client


@pytest.fixture
def failing() -> dict[str, Exception]:
    return {}


async def test_only_failing_checks_are_named_and_their_passwords_are_not(probed: httpx.AsyncClient, failing: dict[str, Exception]) -> None:
    failing["redis"] = OSError("cannot reach redis://:hunter2@cache:6379")

    reply = await probed.get("/readyz")

    assert reply.status_code == 503
    assert reply.json() == {"status": "not_ready", "failures": {"redis": "cannot reach [REDACTED_DB_URL]"}}


async def test_the_gate_closes_while_the_server_stops(probed: httpx.AsyncClient, shutdown: Shutdown) -> None:
    before = await probed.get("/readyz")
    shutdown.begin()

    reply = await probed.get("/readyz")

    assert before.json() == {"status": "ready"}
    assert (reply.status_code, reply.json()) == (503, {"status": "not_ready", "reason": "manual_gate"})
    assert (await probed.get("/healthz")).status_code == 200


@pytest.mark.parametrize("path", ["/api/health", "/health"])
async def test_without_a_database_health_is_503(probed: httpx.AsyncClient, failing: dict[str, Exception], path: str) -> None:
    failing["postgres"] = OSError("gone")

    reply = await probed.get(path)

    assert reply.status_code == 503
    assert reply.json()["status"] == "degraded"
