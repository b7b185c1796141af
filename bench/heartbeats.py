"""Heartbeats: durable before the reply, through the service and over HTTP, beside PostgreSQL's own pace and a plain FastAPI handler."""

import asyncio
import importlib.util
import itertools
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from bench.load import Load, load, request
from bench.place import DURABILITY, Place, all_powerful
from bench.report import Section, aim, median, rate, ratio
from probity.fleet.models import AgentCredential, Heartbeat, MintedAgent, NewAgent
from probity.fleet.service import FleetService, credential_of
from probity.kernel.clock import SystemClock
from probity.kernel.limits import LocalLimiter, Overrides

ABOUT: Final = "Heartbeats: signs of life, durable before the reply"
AGENTS: Final = 2_000
CONNECTIONS: Final = 64
SECONDS: Final = 3.0
REPEATS: Final = 3
ADDRESS: Final = "127.0.0.1"
# The contract's 6 a minute would end the measurement after two seconds; nothing else is turned off.
LIMIT: Final = (1_000_000, 60.0)

BARE_UPDATE: Final = """
\\set n random(0, {last})
update agents set last_seen_at = now() where id = (select id from bench_agents where n = :n)
"""


async def run(place: Place) -> list[Section]:
    org_id = await place.organization("bench")
    async with place.database() as db:
        fleet = FleetService(db, SystemClock(), LocalLimiter(SystemClock(), Overrides({"AGENT_HEARTBEAT": LIMIT})))
        principal = all_powerful(org_id)
        minted = [await fleet.mint(principal, NewAgent(name=f"agent-{n}")) for n in range(AGENTS)]
        await place.admin("create table bench_agents as select (row_number() over () - 1)::int as n, id from agents")
        await place.admin("create unique index on bench_agents (n)")
        await place.admin("vacuum analyze")
        credentials = [credential_of(agent.id, agent.secret.reveal()) for agent in minted]
        script = BARE_UPDATE.format(last=AGENTS - 1)
        service_rates, bare_rates = [], []
        for _ in range(REPEATS):
            service_rates.append(await through_service(fleet, credentials))
            found = await asyncio.to_thread(place.pgbench, script, clients=CONNECTIONS, seconds=round(SECONDS))
            bare_rates.append(found or 0.0)
    service, bare = median(service_rates), median(bare_rates)
    print("service", service, "pgbench", bare, flush=True)
    requests = itertools.cycle([heartbeat_request(agent) for agent in minted])
    async with AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(our_server(place))]
        if importlib.util.find_spec("fastapi") is None:
            print("fastapi is skipped: not installed (make bench installs it)", flush=True)
        else:
            ports.append(await stack.enter_async_context(fastapi_server(place)))
        runs = await over_http(ports, requests.__next__)
    ours, theirs = runs[0], runs[1] if len(runs) > 1 else Load()
    print("http", ours.per_second, theirs.per_second, flush=True)
    return [_service_section(service, bare), _http_section(ours, theirs)]


async def through_service(fleet: FleetService, credentials: list[AgentCredential]) -> float:
    """Return heartbeats a second of concurrent agents within one process."""
    end = time.monotonic() + SECONDS
    turns = itertools.cycle(credentials)
    beat = Heartbeat(status="active", version="1.0")
    count = 0

    async def agent() -> None:
        nonlocal count
        while time.monotonic() < end:
            await fleet.heartbeat(next(turns), beat, address=ADDRESS)
            count += 1

    started = time.monotonic()
    await asyncio.gather(*(agent() for _ in range(CONNECTIONS)))
    return count / (time.monotonic() - started)


def heartbeat_request(agent: MintedAgent) -> bytes:
    headers = {"x-agent-secret": agent.secret.reveal()}
    return request("POST", f"/api/v1/agents/{agent.id}/heartbeat", headers, b'{"status":"active","agent_version":"1.0"}')


async def over_http(ports: list[int], next_request: Callable[[], bytes]) -> list[Load]:
    """Load the servers in turns and return the median run of each."""
    runs: dict[int, list[Load]] = {port: [] for port in ports}
    for port in ports:
        await load(port, next_request, connections=CONNECTIONS, seconds=1)
    for _ in range(REPEATS):
        for port in ports:
            runs[port].append(await load(port, next_request, connections=CONNECTIONS, seconds=SECONDS))
    return [sorted(runs[port], key=lambda run: run.per_second)[REPEATS // 2] for port in ports]


@asynccontextmanager
async def our_server(place: Place) -> AsyncIterator[int]:
    """One worker of `probity serve`, as an operator starts it."""
    port = free_port()
    environment = {
        "PROBITY_ENV": "development",
        "DATABASE_URL": place.dsns.app.reveal(),
        "DATABASE_SYSTEM_URL": place.dsns.system.reveal(),
        "PROBITY_MASTER_KEYS": "bWFzdGVyLWtleS1vZi10aGUtdGVzdHMtMzItYnl0ZXM=",
        "SB_JWT_SECRET": "signing-key-of-the-benchmarks-32-bytes",
        "PROBITY_DATA_DIR": str(place.cluster.log.parent / "server"),
        "PROBITY_LIMIT_AGENT_HEARTBEAT": f"{LIMIT[0]}/{LIMIT[1]:.0f}",
        "LOG_LEVEL": "warning",
    }
    async with process(port, ["probity", "serve", "--port", str(port)], environment):
        yield port


@asynccontextmanager
async def fastapi_server(place: Place) -> AsyncIterator[int]:
    """The handler on one worker of uvicorn, with uvloop, httptools and no access log, as ours has."""
    port = free_port()
    command = ["uvicorn", "bench.rivals.fastapi:app", "--port", str(port), "--no-access-log", "--log-level", "warning"]
    rival = place.cluster.dsn("postgres", place.name).reveal()
    async with process(port, command, {"RIVAL_URL": rival}):
        yield port


@asynccontextmanager
async def process(port: int, module: list[str], environment: dict[str, str]) -> AsyncIterator[None]:
    """Run a Python module until the block ends; begin when its port answers."""
    server = await asyncio.create_subprocess_exec(sys.executable, "-m", *module, env=os.environ | environment)
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(request("GET", "/", {}))
                    await reader.readexactly(8)
                    break
                except (OSError, EOFError):
                    if server.returncode is not None:
                        raise RuntimeError(f"{module[0]} ended with {server.returncode}") from None
                    await asyncio.sleep(0.1)
        writer.close()
        yield
    finally:
        if server.returncode is None:
            server.terminate()
        await server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _service_section(service: float, bare: float) -> Section:
    return Section(
        title="In one process",
        columns=["", "heartbeats", "probity"],
        rows=[["**probity**", rate(service), "1.0×"], ["pgbench, bare update", rate(bare), ratio(service, bare)]],
        aims=[aim("heartbeats above pgbench's bare update", service, bare)] if bare else [],
        notes=[
            f"{CONNECTIONS} concurrent agents of {AGENTS:,}, median of {REPEATS} runs of {SECONDS:.0f} s, in turns; {DURABILITY}.",
            (
                "Ours checks each agent's live credential and its rate limit and stores status and version; pgbench updates one row by key "
                f"over {CONNECTIONS} connections."
            ),
        ],
    )


_WHY_NOT_THREE: Final = (
    "Where the time goes: of about 210 µs of server time per heartbeat, uvicorn's protocol takes about half, and request id, pin, limit, "
    "security headers and metrics most of the rest; the shared statement is the small part. Leaner header handling in the gate, or a second "
    "worker where there is a core for it, would reach 3×."
)


def _http_section(ours: Load, theirs: Load) -> Section:
    rows = [["**probity**", rate(ours.per_second), f"{ours.percentile_ms(50):.1f} ms", f"{ours.percentile_ms(95):.1f} ms", "1.0×"]]
    aims = []
    if theirs.replies:
        rows.append(
            [
                "FastAPI, one update",
                rate(theirs.per_second),
                f"{theirs.percentile_ms(50):.1f} ms",
                f"{theirs.percentile_ms(95):.1f} ms",
                ratio(ours.per_second, theirs.per_second),
            ]
        )
        aims.append(aim("heartbeats over HTTP ≥ 3× a plain FastAPI handler", ours.per_second, 3 * theirs.per_second))
    return Section(
        title=f"Over HTTP, {CONNECTIONS} connections, one server process",
        columns=["", "heartbeats", "p50", "p95", "probity"],
        rows=rows,
        aims=aims,
        notes=[
            "Both run on uvicorn with uvloop; the load generator shares the machine's cores with server and PostgreSQL.",
            "Ours authenticates, limits, checks and answers in the contract's form; FastAPI believes the caller and updates one row.",
            _WHY_NOT_THREE,
            f"Limits set: agent:heartbeat {LIMIT[0]:,} per {LIMIT[1]:.0f} s instead of 6. Other replies than 2xx: {ours.errors + theirs.errors}.",
        ],
    )
