"""procrastinate: a job queue for Python on PostgreSQL (PyPI)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Status

from bench.place import Place

QUEUE = "bench"


class Procrastinate:
    def __init__(self, app: App, worker_id: int) -> None:
        self._app = app
        self._worker_id = worker_id

    async def refill(self, place: Place, jobs: int) -> None:
        await place.admin("truncate procrastinate_jobs, procrastinate_events cascade", database="rival")
        await place.admin(
            f"insert into procrastinate_jobs (queue_name, task_name, args) select '{QUEUE}', 'noop', '{{\"n\": 1}}' from generate_series(1, {jobs})",
            database="rival",
        )
        await place.admin("vacuum analyze procrastinate_jobs, procrastinate_events", database="rival")

    async def claim(self, _claimer: int) -> bool:
        return await self._app.job_manager.fetch_job(None, self._worker_id) is not None

    async def cycle(self, _claimer: int) -> bool:
        job = await self._app.job_manager.fetch_job(None, self._worker_id)
        if job is not None:
            await self._app.job_manager.finish_job(job, Status.SUCCEEDED, delete_job=False)
        return job is not None


@asynccontextmanager
async def procrastinate(place: Place, claimers: int) -> AsyncIterator[Procrastinate]:
    """Open an application with as many connections as its claimers can use, twenty at most."""
    app = App(connector=PsycopgConnector(conninfo=place.rival_dsn, min_size=1, max_size=min(claimers, 20), timeout=60))
    async with app.open_async():
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        yield Procrastinate(app, await app.job_manager.register_worker())
