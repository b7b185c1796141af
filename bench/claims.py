"""Claims: agents taking jobs from one queue, beside three job queues on the same PostgreSQL and PostgreSQL's own pace."""

import asyncio
import importlib
import importlib.util
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from bench.place import DURABILITY, Place, all_powerful
from bench.report import Section, aim, median, rate, ratio
from bench.rivals import graphile
from probity.dispatch.models import Completion, CompletionStatus
from probity.dispatch.service import DispatchService
from probity.fleet.models import AgentCredential, NewAgent
from probity.fleet.service import FleetService, credential_of
from probity.kernel.clock import SystemClock
from probity.kernel.db import Database, execute
from probity.kernel.limits import LocalLimiter
from probity.kernel.principal import Principal
from probity.kernel.wakeups import Wakeups

ABOUT: Final = "Claims: taking jobs from the queue"
CLAIMERS: Final = (1, 8, 64)
MOST: Final = CLAIMERS[-1]
SECONDS: Final = 3.0
REPEATS: Final = 3
JOBS: Final = 100_000
ADDRESS: Final = "127.0.0.1"
SUCCEEDED: Final = Completion(status=CompletionStatus.SUCCEEDED)

# What a claim is at the least: one indexed update of the oldest waiting row, without credential, audit, lease rules or reply.
BARE_CLAIM: Final = """
update jobs set state = 'claimed', claimed_by = '00000000-0000-0000-0000-000000000001', claimed_at = now(),
                claim_expires_at = now() + interval '30 s', attempt = attempt + 1
 where id = (select id from jobs where org_id = '{org_id}' and lane = 'agent' and state = 'queued' and agent_id is null
                and coalesce(capability, '') = '' order by priority desc, run_at, id limit 1 for update skip locked)
"""


class Ours:
    """One server's services, and as many agents as there are claimers."""

    def __init__(self, db: Database, admin: Principal) -> None:
        clock = SystemClock()
        self.db = db
        self.admin = admin
        self.fleet = FleetService(db, clock, LocalLimiter(clock))
        self.dispatch = DispatchService(db, clock, self.fleet, Wakeups(db))
        self.agents: list[AgentCredential] = []

    async def start(self) -> None:
        for n in range(max(CLAIMERS)):
            minted = await self.fleet.mint(self.admin, NewAgent(name=f"agent-{n}"))
            self.agents.append(credential_of(minted.id, minted.secret.reveal()))

    async def refill(self, place: Place) -> None:
        await place.admin("truncate jobs")
        async with self.db.system() as tx:
            await execute(
                tx,
                """
                insert into jobs (id, org_id, lane, kind, payload, correlation_id, max_attempts)
                select probity_new_id(), :org_id, 'agent', 'verify', '{"n": 1}', gen_random_uuid(), 1000 from generate_series(1, :n)
                """,
                org_id=self.admin.org_id,
                n=JOBS,
            )
        await place.admin("vacuum analyze jobs")

    async def claim(self, claimer: int) -> bool:
        return await self.dispatch.claim(self.agents[claimer], address=ADDRESS) is not None

    async def cycle(self, claimer: int) -> bool:
        job = await self.dispatch.claim(self.agents[claimer], address=ADDRESS)
        if job is not None:
            await self.dispatch.complete(self.agents[claimer], job.id, SUCCEEDED, address=ADDRESS)
        return job is not None


async def per_second(work: Callable[[int], Awaitable[int]], claimers: int, seconds: float = SECONDS) -> float:
    """Return how many jobs `work(claimer)` takes in a second when each claimer calls it again and again until it takes none."""
    end = time.monotonic() + seconds
    counts = [0] * claimers

    async def claimer(n: int) -> None:
        while time.monotonic() < end and (took := await work(n)):
            counts[n] += took

    started = time.monotonic()
    await asyncio.gather(*(claimer(n) for n in range(claimers)))
    return sum(counts) / (time.monotonic() - started)


async def repeated(refill: Callable[[], Awaitable[None]], work: Callable[[int], Awaitable[int]], claimers: int) -> float:
    rates = []
    for _ in range(REPEATS):
        await refill()
        rates.append(await per_second(work, claimers))
    return median(rates)


async def measure_ours(place: Place) -> tuple[dict[int, float], float, dict[int, float]]:
    """Return claims a second by claimers, cycles a second at the most claimers, and pgbench's bare claims by claimers."""
    org_id = await place.organization("bench")
    async with place.database() as db:
        ours = Ours(db, all_powerful(org_id))
        await ours.start()

        async def refill() -> None:
            await ours.refill(place)

        claims = {n: await repeated(refill, ours.claim, n) for n in CLAIMERS}
        cycles = await repeated(refill, ours.cycle, MOST)
        bare = {}
        for n in CLAIMERS:
            await refill()
            bare[n] = place.pgbench(BARE_CLAIM.format(org_id=org_id), clients=n, seconds=round(SECONDS)) or 0.0
    return claims, cycles, bare


async def measure_python_rival(open_rival: Callable[[int], Any], place: Place) -> tuple[dict[int, float], float]:
    """Return a rival's claims a second by claimers, and its cycles a second at the most claimers."""
    claims: dict[int, float] = {}
    cycles = 0.0
    for n in CLAIMERS:
        async with open_rival(n) as rival:

            async def refill(rival: Any = rival) -> None:
                await rival.refill(place, JOBS)

            claims[n] = await repeated(refill, rival.claim, n)
            if n == MOST:
                cycles = await repeated(refill, rival.cycle, n)
    return claims, cycles


async def measure_graphile(place: Place) -> dict[str, float]:
    """Return its cycles a second as it comes and with its batching on; nothing when it cannot run."""
    if (reason := await graphile.prepare()) is not None:
        print(f"graphile-worker is skipped: {reason}", flush=True)
        return {}
    found = {}
    for label, batched in (("graphile-worker", False), ("graphile-worker, batches of 500", True)):
        rates = [
            await graphile.cycles_per_second(place, concurrency=MOST, seconds=SECONDS, jobs=JOBS, batched=batched) for _ in range(REPEATS)
        ]
        found[label] = median(rates)
        print(label, rates, flush=True)
    return found


async def run(place: Place) -> list[Section]:
    claims, cycles, bare = await measure_ours(place)
    print("probity", claims, cycles, "pgbench", bare, flush=True)
    rivals: dict[str, dict[int, float]] = {}
    rival_cycles: dict[str, float] = {}
    for name, open_rival in _python_rivals(place).items():
        rivals[name], rival_cycles[name] = await measure_python_rival(open_rival, place)
        print(name, rivals[name], rival_cycles[name], flush=True)
    rival_cycles |= await measure_graphile(place)
    return [_claims_section(claims, bare, rivals), _cycles_section(cycles, rival_cycles)]


def _python_rivals(place: Place) -> dict[str, Callable[[int], Any]]:
    """The rivals that are installed, by name."""
    found: dict[str, Callable[[int], Any]] = {}
    for name, module, batch in (
        ("procrastinate", "procrastinate", None),
        ("pgqueuer", "pgqueuer", 1),
        ("pgqueuer, batches of 10", "pgqueuer", 10),
    ):
        if importlib.util.find_spec(module) is None:
            print(f"{module} is skipped: not installed (`make bench` does)", flush=True)
            continue
        open_rival = getattr(importlib.import_module(f"bench.rivals.{module}"), module)
        options = {} if batch is None else {"batch": batch}
        found[name] = partial(open_rival, place, **options)
    return found


def _claims_section(claims: dict[int, float], bare: dict[int, float], rivals: dict[str, dict[int, float]]) -> Section:
    rows = [["**probity**", *(rate(claims[n]) for n in CLAIMERS), "1.0×"]]
    for name, rates in [*rivals.items(), ("pgbench, bare update", bare)]:
        rows.append([name, *(rate(rates[n]) for n in CLAIMERS), ratio(claims[MOST], rates[MOST])])
    single = [rates[MOST] for name, rates in rivals.items() if "batches" not in name]
    aims = [aim(f"claims at {MOST} claimers ≥ 2× the best of procrastinate and pgqueuer", claims[MOST], 2 * max(single))] if single else []
    if bare[MOST]:
        aims.append(aim(f"claims at {MOST} claimers above pgbench's bare update", claims[MOST], bare[MOST]))
    return Section(
        title="Claims by concurrent claimers",
        columns=["", *(f"{n} claimers" for n in CLAIMERS), f"probity at {MOST}"],
        rows=rows,
        aims=aims,
        notes=[
            f"One server process, {JOBS:,} waiting jobs, median of {REPEATS} runs of {SECONDS:.0f} s; {DURABILITY}.",
            (
                "Ours checks the agent's live credential, writes an audit row (hashed for the chain) and reads the payload in the same "
                "statement; it uses its default 4 system connections. Rivals have up to 20 connections and check and audit nothing."
            ),
            "pgbench runs one indexed `update … skip locked` over prepared statements with one connection for each claimer.",
        ],
    )


def _cycles_section(cycles: float, rivals: dict[str, float]) -> Section:
    rows = [["**probity**", rate(cycles), "1.0×"], *([name, rate(found), ratio(cycles, found)] for name, found in rivals.items())]
    return Section(
        title=f"Claim and complete, {MOST} at once",
        columns=["", "jobs", "probity"],
        rows=rows,
        notes=[
            "A job is taken, nothing is done, its end is written. Ours audits both steps.",
            (
                "graphile-worker runs in Node with a task that does nothing, 64 concurrent jobs and up to 20 connections; with its local "
                "queue it locks 500 jobs at once and holds ends back to write them together."
            ),
        ],
    )
