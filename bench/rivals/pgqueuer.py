"""pgqueuer: a job queue for Python on PostgreSQL (PyPI), over asyncpg."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

import asyncpg
from pgqueuer.queries import EntrypointExecutionParameter, Queries

from bench.place import Place

STALE = timedelta(seconds=30)


class Pgqueuer:
    """`batch` is what one fetch takes; 10 is its worker's default."""

    def __init__(self, queries: Queries, batch: int = 1) -> None:
        self._queries = queries
        self._batch = batch
        self._manager = uuid4()
        self._entrypoints = {"noop": EntrypointExecutionParameter(0)}

    async def refill(self, place: Place, jobs: int) -> None:
        await place.admin("truncate pgqueuer, pgqueuer_log", database="rival")
        await self._queries.enqueue(["noop"] * jobs, [b"1"] * jobs, [0] * jobs)
        await place.admin("vacuum analyze pgqueuer, pgqueuer_log", database="rival")

    async def claim(self, _claimer: int) -> int:
        return len(await self._fetch())

    async def cycle(self, _claimer: int) -> int:
        jobs = await self._fetch()
        if jobs:
            await self._queries.log_jobs([(job, "successful", None) for job in jobs])
        return len(jobs)

    async def _fetch(self) -> list:
        return await self._queries.dequeue(self._batch, self._entrypoints, self._manager, None, STALE)


@asynccontextmanager
async def pgqueuer(place: Place, claimers: int, batch: int = 1) -> AsyncIterator[Pgqueuer]:
    """Open its queries over a pool with as many connections as its claimers can use, twenty at most."""
    async with asyncpg.create_pool(place.rival_dsn, min_size=1, max_size=min(claimers, 20)) as pool:
        queries = Queries.from_asyncpg_pool(pool)
        if not await queries.has_table("pgqueuer"):
            await queries.install()
        yield Pgqueuer(queries, batch)
