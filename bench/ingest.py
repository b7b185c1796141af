"""Ingest of results over HTTP, one at a time and in batches of 500, beside PostgreSQL's own pace for bare inserts."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final

import aiohttp
import msgspec

from bench.place import DURABILITY, Place
from bench.report import Section, aim, median, rate
from bench.served import served

ABOUT: Final = "Ingest: results on their way into a run"
BATCH: Final = 500
SECONDS: Final = 4.0
REPEATS: Final = 3
SINGLY: Final = (1, 16, 64)
BATCHED: Final = (1, 4, 8)

BARE_TABLE: Final = """
create table bare (id uuid primary key, run_id uuid not null, seq bigint not null, event_id text not null, case_key text not null,
                   outcome text not null, duration_ms float8 not null, at timestamptz not null, unique (run_id, event_id))
"""
BARE_ROW: Final = """gen_random_uuid(), '00000000-0000-7000-8000-000000000000', 1, gen_random_uuid()::text, 'tests.module::test_case',
                     'passed', 1.5, now()"""
BARE_INSERT: Final = f"insert into bare values ({BARE_ROW});"
BARE_INSERT_500: Final = f"insert into bare select {BARE_ROW} from generate_series(1, {BATCH});"

_numbers = count()


def a_batch(size: int) -> bytes:
    """Return a body as the pytest plugin sends it: fresh ids, fresh cases."""
    events = [
        {
            "id": f"3f9a1c72-{(n := next(_numbers))}",
            "type": "result",
            "at": "2026-01-01T00:00:00Z",
            "case": f"tests.test_module_{n % 97}::test_case_{n}",
            "name": f"test_case_{n}",
            "suite": f"tests.test_module_{n % 97}",
            "file": f"tests/test_module_{n % 97}.py",
            "line": n % 400,
            "outcome": "passed",
            "duration_ms": 12.5,
            "attempt": 1,
        }
        for _ in range(size)
    ]
    return msgspec.json.encode({"events": events})


async def run(place: Place) -> list[Section]:
    await place.admin(BARE_TABLE)
    async with served(place) as server, server.session(max(SINGLY)) as http:
        singly = [await measure(http, connections, 1, spread=connections) for connections in SINGLY]
        one_run = await measure(http, max(SINGLY), 1, spread=1)
        batched = [await measure(http, connections, BATCH, spread=connections) for connections in BATCHED]
    bare = [place.pgbench(BARE_INSERT, clients=connections, seconds=int(SECONDS)) for connections in SINGLY]
    bare_500 = [place.pgbench(BARE_INSERT_500, clients=connections, seconds=int(SECONDS)) for connections in BATCHED]
    best = max(batched)
    return [
        Section(
            title="One result per request",
            columns=["connections", "results", "pgbench, bare insert", "ratio"],
            rows=[_row(str(n), ours, limit) for n, ours, limit in zip(SINGLY, singly, bare, strict=True)]
            + [_row(f"{max(SINGLY)}, one run", one_run, bare[-1])],
            notes=[
                (
                    "Ours: HTTP with an API key, decoding, the key's look-up, the run's lock, duplicate check, two tables, totals; one transaction "
                    "for all that wait. Bare: one row into one table with two indexes."
                ),
                DURABILITY,
            ],
        ),
        Section(
            title=f"{BATCH} results per request",
            columns=["connections", "results", "pgbench, bare insert of 500", "ratio"],
            rows=[_row(str(n), ours, limit and limit * BATCH) for n, ours, limit in zip(BATCHED, batched, bare_500, strict=True)],
            aims=[aim("5,000 results per second in batches", best, 5000)],
            notes=["The server is one process; its client and PostgreSQL share the same cores."],
        ),
    ]


async def measure(http: aiohttp.ClientSession, connections: int, batch: int, *, spread: int) -> float:
    """Return results per second, taken and durable; the writers write to `spread` runs."""
    rates = []
    for _ in range(REPEATS):
        runs = [await start(http) for _ in range(spread)]
        bodies = [[a_batch(batch) for _ in range(40 if batch > 1 else 4000 // connections + 200)] for _ in range(connections)]
        until = time.perf_counter() + SECONDS

        async def write(runs: list[str] = runs, bodies: list[list[bytes]] = bodies, until: float = until, *, number: int) -> int:
            sent = 0
            for body in bodies[number]:
                if time.perf_counter() >= until:
                    break
                async with http.post(
                    f"/api/v1/runs/{runs[number % spread]}/events", data=body, headers={"content-type": "application/json"}
                ) as reply:
                    assert reply.status == 200, await reply.text()
                sent += batch
            return sent

        rates.append(await _paced([lambda number=number: write(number=number) for number in range(connections)]))  # type: ignore[misc]
    return median(rates)


async def _paced(writers: list[Callable[[], Awaitable[int]]]) -> float:
    began = time.perf_counter()
    sent = sum(await asyncio.gather(*(writer() for writer in writers)))
    return sent / (time.perf_counter() - began)


async def start(http: aiohttp.ClientSession) -> str:
    async with http.post("/api/v1/runs", json={"name": "bench"}) as reply:
        assert reply.status == 201, await reply.text()
        run: dict[str, str] = await reply.json()
        return run["uuid"]


def _row(name: str, ours: float, limit: float | None) -> list[str]:
    return [name, rate(ours), rate(limit) if limit else "–", f"{ours / limit:.2f}" if limit else "–"]
