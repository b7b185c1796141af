"""The list of runs: 50 of 100,000, over HTTP and as the bare statement."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import aiohttp

from bench.place import Place
from bench.report import Section, median, rate
from bench.served import served
from probity.kernel.db import execute
from probity.kernel.principal import OrgId

ABOUT: Final = "Lists: 50 of 100,000 runs"
RUNS: Final = 100_000
PROJECTS: Final = 20
SECONDS: Final = 2.0
QUERIES: Final = (
    ("newest", ""),
    ("a page in the middle", "&cursor=50000"),
    ("state=failed (1 in 20)", "&state=failed"),
    ("state=error (1 in 5,000)", "&state=error"),
    ("one project of 20", "&project=PRJ-7"),
    ("text in the name (1 in 100)", "&q=suite%2042%20"),
    ("text that nothing has", "&q=nowhere"),
)
# The same page without HTTP, credential, row-level security and JSON: what the index and the rows cost at the least.
BARE: Final = """
select id, number, name, kind, state, reason_code, trigger, project_id, agent_id, job_id, exit_code, created_by, created_at, started_at,
       finished_at, last_seq, total, passed, failed, errors, skipped, flaky
  from runs where org_id = '{org_id}' order by number desc limit 50
"""


async def run(place: Place) -> list[Section]:
    async with served(place) as server, server.session(8) as http:
        await fill(place, server.org_id)
        rows: list[list[str]] = []
        for name, query in QUERIES:
            path = f"/api/v1/runs?limit=50{query}"
            alone = await measure(http, path, 1)
            together = await measure(http, path, 8)
            rows.append(
                [name, f"{median(alone):.1f} ms", f"{_p95(alone):.1f} ms", rate(len(alone) / SECONDS), rate(len(together) / SECONDS)]
            )
    bare = [place.pgbench(BARE.format(org_id=server.org_id), clients=clients, seconds=int(SECONDS)) for clients in (1, 8)]
    bare_row = ["bare statement by pgbench, newest", "", "", *(rate(value) if value else "–" for value in bare)]
    notes = [
        f"Of two organizations with {RUNS:,} runs each. The page goes from PostgreSQL to the wire as text; no row becomes an object.",
        "The bare statement has no HTTP, no credential, no row-level security and makes no JSON; the client and PostgreSQL share the server's cores.",
    ]
    columns = ["query", "p50", "p95", "1 connection", "8 connections"]
    return [Section(title="GET /api/v1/runs?limit=50", columns=columns, rows=[*rows, bare_row], notes=notes)]


async def fill(place: Place, org_id: OrgId) -> None:
    """Make the runs of two organizations in the order of time, mixed as they would be."""
    other = await place.organization("neighbour")
    async with place.database() as db:
        for owner in (org_id, other):
            async with db.system() as tx:
                await execute(
                    tx,
                    """
                    insert into projects (id, org_id, number, name, slug, created_by)
                    select probity_new_id(), :org_id, n, 'Project ' || n, 'project-' || n, 'bench' from generate_series(1, :projects) as n
                    """,
                    org_id=owner,
                    projects=PROJECTS,
                )
        async with db.system() as tx:
            await execute(
                tx,
                """
                insert into runs (id, org_id, run_month, number, project_id, kind, name, state, trigger, created_by, created_at, started_at,
                                  finished_at, total, passed, failed)
                select probity_new_id(), o.org_id, date_trunc('month', now())::date, n, p.id, 'external', 'suite ' || n % 100 || ' nightly',
                       case when n % 5000 = 0 then 'error' when n % 20 = 0 then 'failed' else 'passed' end, 'ci', 'apikey:bench',
                       now() - make_interval(secs => :runs - n), now() - make_interval(secs => :runs - n), now(), 100, 99, 1
                  from generate_series(1, :runs) as n
                 cross join unnest(:org_ids::uuid[]) as o (org_id)
                  join projects p on p.org_id = o.org_id and p.number = 1 + n % :projects
                 order by n
                """,
                runs=RUNS,
                org_ids=[org_id, other],
                projects=PROJECTS,
            )
    await place.admin("vacuum analyze runs")


async def measure(http: aiohttp.ClientSession, path: str, connections: int) -> list[float]:
    """Return the times in milliseconds of all requests that this many connections make one after another."""
    until = time.perf_counter() + SECONDS

    async def ask() -> list[float]:
        times = []
        while (began := time.perf_counter()) < until:
            async with http.get(path) as reply:
                await reply.read()
                assert reply.status == 200, await reply.text()
            times.append((time.perf_counter() - began) * 1000)
        return times

    return [value for times in await asyncio.gather(*(ask() for _ in range(connections))) for value in times]


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[len(values) * 95 // 100]
