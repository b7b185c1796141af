"""Claims: agents taking jobs from one queue, beside three job queues on the same PostgreSQL and PostgreSQL's own pace."""

import asyncio
import importlib
import importlib.util
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

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
SECONDS: Final = 2.0
REPEATS: Final = 3
JOBS: Final = 40_000
ADDRESS: Final = "127.0.0.1"
OURS: Final = "probity"
BARE: Final = "pgbench, bare update"
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


@dataclass(frozen=True)
class Contender:
    """A queue under test. `cycle` is None for what only claims; `pgbench` runs by itself and has neither."""

    name: str
    refill: Callable[[], Awaitable[None]]
    claim: Callable[[int], Awaitable[int]] | None = None
    cycle: Callable[[int], Awaitable[int]] | None = None
    pgbench: Callable[[int], Awaitable[float]] | None = None

    async def claims_per_second(self, claimers: int) -> float:
        await self.refill()
        if self.pgbench is not None:
            return await self.pgbench(claimers)
        assert self.claim is not None
        return await per_second(self.claim, claimers)

    async def cycles_per_second(self, claimers: int) -> float:
        await self.refill()
        assert self.cycle is not None
        return await per_second(self.cycle, claimers)


async def run(place: Place) -> list[Section]:
    """Measure all in turns, so that what else the machine does meets everybody alike."""
    async with AsyncExitStack() as stack:
        contenders = [*await _ours(place, stack), *await _python_rivals(place, stack)]
        claims: dict[str, dict[int, float]] = {contender.name: {} for contender in contenders}
        for n in CLAIMERS:
            rounds = [[await contender.claims_per_second(n) for contender in contenders] for _ in range(REPEATS)]
            for contender, rates in zip(contenders, zip(*rounds, strict=True), strict=True):
                claims[contender.name][n] = median(rates)
                print(f"{n} claimers, {contender.name}: {claims[contender.name][n]:,.0f}/s", flush=True)
        cyclers = [contender for contender in contenders if contender.cycle is not None]
        graphile_labels = await _graphile_labels()
        rounds = []
        for _ in range(REPEATS):
            found = [await contender.cycles_per_second(MOST) for contender in cyclers]
            found += [
                await graphile.cycles_per_second(place, concurrency=MOST, seconds=SECONDS, jobs=JOBS, batched=batched)
                for batched in graphile_labels.values()
            ]
            rounds.append(found)
    names = [*(contender.name for contender in cyclers), *graphile_labels]
    cycles = {name: median(rates) for name, rates in zip(names, zip(*rounds, strict=True), strict=True)}
    print("claim and complete", {name: round(value) for name, value in cycles.items()}, flush=True)
    return [_claims_section(claims), _cycles_section(cycles)]


async def _ours(place: Place, stack: AsyncExitStack) -> list[Contender]:
    org_id = await place.organization("bench")
    ours = Ours(await stack.enter_async_context(place.database()), all_powerful(org_id))
    await ours.start()

    async def refill() -> None:
        await ours.refill(place)

    async def bare(claimers: int) -> float:
        script = BARE_CLAIM.format(org_id=org_id)
        return await asyncio.to_thread(place.pgbench, script, clients=claimers, seconds=round(SECONDS)) or 0.0

    return [Contender(OURS, refill, ours.claim, ours.cycle), Contender(BARE, refill, pgbench=bare)]


async def _python_rivals(place: Place, stack: AsyncExitStack) -> list[Contender]:
    """The rivals that are installed, each over at most twenty connections."""
    found: list[Contender] = []
    for name, module, options in (
        ("procrastinate", "procrastinate", {}),
        ("pgqueuer", "pgqueuer", {"batch": 1}),
        ("pgqueuer, batches of 10", "pgqueuer", {"batch": 10}),
    ):
        if importlib.util.find_spec(module) is None:
            print(f"{module} is skipped: not installed (make bench installs it)", flush=True)
            continue
        opened = getattr(importlib.import_module(f"bench.rivals.{module}"), module)
        rival = await stack.enter_async_context(opened(place, MOST, **options))
        found.append(Contender(name, partial(rival.refill, place, JOBS), rival.claim, rival.cycle))
    return found


async def _graphile_labels() -> dict[str, bool]:
    if (reason := await graphile.prepare()) is not None:
        print(f"graphile-worker is skipped: {reason}", flush=True)
        return {}
    return {"graphile-worker": False, "graphile-worker, batches of 500": True}


def _claims_section(claims: dict[str, dict[int, float]]) -> Section:
    ours = claims[OURS]
    rows = [
        [f"**{name}**" if name == OURS else name, *(rate(rates[n]) for n in CLAIMERS), ratio(ours[MOST], rates[MOST])]
        for name, rates in claims.items()
    ]
    single = [rates[MOST] for name, rates in claims.items() if name in ("procrastinate", "pgqueuer")]
    aims = [aim(f"claims at {MOST} claimers ≥ 2× the best of procrastinate and pgqueuer", ours[MOST], 2 * max(single))] if single else []
    if claims[BARE][MOST]:
        aims.append(aim(f"claims at {MOST} claimers above pgbench's bare update", ours[MOST], claims[BARE][MOST]))
    return Section(
        title="Claims by concurrent claimers",
        columns=["", *(f"{n} at once" for n in CLAIMERS), f"probity at {MOST}"],
        rows=rows,
        aims=aims,
        notes=[
            f"One server process, {JOBS:,} waiting jobs, median of {REPEATS} runs of {SECONDS:.0f} s, in turns; {DURABILITY}.",
            (
                "Ours checks the agent's live credential, writes an audit row (hashed for the chain) and reads the payload in the same "
                "statement; it uses its default 4 system connections. Rivals have up to 20 connections and check and audit nothing."
            ),
            "pgqueuer's worker takes ten jobs in one fetch by default; both ways are shown.",
            "pgbench runs one indexed `update … skip locked` over prepared statements with one connection for each claimer.",
        ],
    )


def _cycles_section(cycles: dict[str, float]) -> Section:
    rows = [[f"**{name}**" if name == OURS else name, rate(found), ratio(cycles[OURS], found)] for name, found in cycles.items()]
    return Section(
        title=f"Claim and complete, {MOST} at once",
        columns=["", "jobs", "probity"],
        rows=rows,
        notes=[
            "A job is taken, nothing is done, its end is written. Ours audits both steps.",
            (
                "graphile-worker runs in Node with a task that does nothing, 64 concurrent jobs and up to 20 connections; with its local "
                "queue it locks 500 jobs at once and holds ends back to write them together, which ours does not: each agent holds its own job."
            ),
        ],
    )
