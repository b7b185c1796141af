"""The whole application starts and answers."""

from dataclasses import replace

import httpx

from probity import main
from probity.config import Config, RedisConfig
from probity.kernel.db import Database
from probity.kernel.secret import Secret
from tests import http_app
from tests.kernel.redis_server import redis_server


async def test_probes_answer(http: httpx.AsyncClient) -> None:
    alive = await http.get("/healthz")
    ready = await http.get("/readyz")
    health = await http.get("/api/health")

    assert alive.json() == {"status": "ok"}
    assert ready.json() == {"status": "ready"}
    assert health.json()["status"] == "ok"
    assert set(health.json()) >= {"status", "db", "email", "billing", "observability", "version", "service", "timestamp"}


async def test_monitors_of_two_contracts_find_their_health_reply(http: httpx.AsyncClient) -> None:
    reply = (await http.get("/health")).json()

    assert reply.keys() >= {"ok", "status", "timestamp", "service", "version", "uptime", "checks"}
    assert (reply["ok"], reply["status"], reply["checks"]["database"]) == (True, "healthy", "healthy")


async def test_metrics_are_prometheus_text(http: httpx.AsyncClient) -> None:
    await http.get("/healthz")

    reply = await http.get("/metrics")

    assert reply.headers["content-type"].startswith("text/plain; version=")
    assert "probity_http_request_duration_seconds_count" in reply.text


def test_the_server_answers_on_a_real_socket(live_server: str) -> None:
    assert httpx.get(f"{live_server}/healthz").json() == {"status": "ok"}


async def test_two_servers_share_one_budget_through_redis(db: Database, config: Config) -> None:
    with redis_server() as redis:
        shared = replace(
            config,
            redis=RedisConfig(url=Secret(redis.url), namespace="test"),
            limits={"PROBITY_LIMIT_AUTH_LOGIN": "3/60"},
        )
        async with http_app.client_of(main.build(shared)) as one, http_app.client_of(main.build(shared)) as two:
            statuses = []
            for server in (one, two, one, two, one):
                reply = await server.post("/api/v1/auth/login", json={"email": "nobody@example.test", "password": "wrong"})
                statuses.append(reply.status_code)
            ready = await one.get("/readyz")

    assert statuses == [401, 401, 401, 429, 429]
    assert ready.json() == {"status": "ready"}
