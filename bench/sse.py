"""The live stream of a run to 1,000 clients: from the moment a reporter sends a result until each client has it."""

import asyncio
import re
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import aiohttp
import msgspec

from bench.ingest import start
from bench.place import DURABILITY, Place
from bench.report import Section, aim
from bench.served import Served, free_port, process, served

ABOUT: Final = "Live: one run, 1,000 watchers"
CLIENTS: Final = 1000
EVENTS: Final = 60
EVERY_S: Final = 0.25
_SENT: Final = re.compile(rb"sent=(\d+)")

Sender = Callable[[int], Awaitable[None]]


class Watchers:
    """Raw sockets that note when each event arrives. They share this process's clock with the sender."""

    def __init__(self) -> None:
        self.latencies_ms: list[float] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._ready = 0

    async def open(self, port: int, path: str, headers: dict[str, str]) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n".encode()
        for _ in range(CLIENTS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            self._tasks.append(asyncio.create_task(self._watch(reader, writer)))
        async with asyncio.timeout(60):
            while self._ready < CLIENTS:
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"\n\n")
        self._ready += 1
        with suppress(asyncio.IncompleteReadError):
            while chunk := await reader.read(65536):
                now = time.perf_counter_ns()
                self.latencies_ms += [(now - int(sent)) / 1e6 for sent in _SENT.findall(chunk)]
        writer.close()


async def run(place: Place) -> list[Section]:
    async with served(place) as server:
        ours = await _of_ours(server)
    port = free_port()
    async with process([sys.executable, "-m", "bench.served.bare", str(port)], port, {}):
        bare = await _of_bare(port)
    return [
        Section(
            title=f"From ingest to {CLIENTS:,} clients",
            columns=["server", "p50", "p95", "p99", "received"],
            rows=[_row("Probity", ours), _row("bare ASGI broadcast, no database", bare)],
            aims=[aim("p95 below 200 ms", 200 / _percentile(ours, 95), 1)],
            notes=[
                f"{EVENTS} results, one every {EVERY_S:g} s, each sent alone over HTTP, durable and then read back from its sequence.",
                "All clients and the sender are one process beside the server on the same cores, so reading 1,000 sockets is in every figure.",
                DURABILITY,
            ],
        )
    ]


async def _of_ours(server: Served) -> list[float]:
    async with server.session(4) as http:
        run_id = await start(http)
        port = int(server.address.rpartition(":")[2])

        async def send(number: int) -> None:
            event = {
                "id": f"e{number}",
                "type": "result",
                "at": "2026-01-01T00:00:00Z",
                "case": f"tests::case_{number}",
                "name": f"case_{number}",
                "outcome": "passed",
                "duration_ms": 1,
                "message": f"sent={time.perf_counter_ns()}",
            }
            body = msgspec.json.encode({"events": [event]})
            async with http.post(f"/api/v1/runs/{run_id}/events", data=body, headers={"content-type": "application/json"}) as reply:
                assert reply.status == 200, await reply.text()

        return await _measured(port, f"/api/v1/runs/{run_id}/events", server.headers, send, marks=2)


async def _of_bare(port: int) -> list[float]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:

        async def send(number: int) -> None:
            async with http.post("/", data=f'{{"n":{number},"message":"sent={time.perf_counter_ns()}"}}'.encode()) as reply:
                assert reply.status == 200

        return await _measured(port, "/", {}, send, marks=1)


async def _measured(port: int, path: str, headers: dict[str, str], send: Sender, *, marks: int) -> list[float]:
    """Return the latencies of all deliveries; `marks` is how often one message says when it was sent."""
    watchers = Watchers()
    await watchers.open(port, path, headers)
    for number in range(EVENTS):
        await send(number)
        await asyncio.sleep(EVERY_S)
    await asyncio.sleep(1)
    await watchers.close()
    expected = EVENTS * CLIENTS * marks
    assert len(watchers.latencies_ms) == expected, f"{len(watchers.latencies_ms)} of {expected} deliveries"
    return watchers.latencies_ms[::marks]


def _percentile(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _row(name: str, latencies: list[float]) -> list[str]:
    return [name, *(f"{_percentile(latencies, percent):.0f} ms" for percent in (50, 95, 99)), f"{len(latencies):,}"]
