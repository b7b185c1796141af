"""Lists and live reads take the rows they need from an index, however many runs and events there are."""

from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from probity.kernel.db import Database, execute
from probity.kernel.principal import Principal
from probity.runs import store
from probity.runs.live import store as live_store
from probity.runs.live.store import Place
from probity.runs.models import EventType, Run, RunState
from probity.runs.service import RunService
from probity.runs.store import ResultFilter, RunFilter
from tests.cluster import TestDatabase
from tests.runs.builders import a_run

RUNS, EVENTS = 20_000, 20_000


@pytest_asyncio.fixture
async def crowded(db: Database, runs: RunService, admin: Principal, outsider: Principal, pg: TestDatabase) -> Run:
    """Many runs in both organizations, and one run with many events; statistics as after an analyze."""
    run = await runs.create(admin, a_run())
    async with db.system() as tx:
        for owner in (admin, outsider):
            await execute(
                tx,
                """
                insert into runs (id, org_id, run_month, number, kind, name, state, trigger, created_by, created_at, finished_at)
                select probity_new_id(), :org_id, date_trunc('month', now())::date, 1 + n, 'external', 'suite ' || n,
                       case when n % 100 = 0 then 'failed' else 'passed' end, 'ci', 'x', now(), now()
                  from generate_series(1, :n) as n
                """,
                org_id=owner.org_id,
                n=RUNS // 2,
            )
        await execute(
            tx,
            """
            insert into run_events (id, org_id, run_month, run_id, seq, client_event_id, type, at, body)
            select probity_new_id(), :org_id, :month, case when n % 2 = 0 then :run_id else probity_new_id() end, 1 + n, 'e' || n,
                   case when n % 4 = 0 then 'log' else 'result' end, now(), '{}'
              from generate_series(1, :n) as n
            """,
            org_id=run.org_id,
            month=run.run_month,
            run_id=run.id,
            n=EVENTS,
        )
        await execute(
            tx,
            """
            insert into results (id, org_id, run_month, run_id, seq, client_event_id, case_key, name, outcome, duration_ms, attempt, at)
            select id, org_id, run_month, run_id, seq, client_event_id, 'case ' || seq, 'case', 'passed', 1, 1, at
              from run_events
             where type = 'result'
            """,
        )
    superuser = await asyncpg.connect(pg.owner.reveal())
    await superuser.execute("analyze runs, run_events, results")
    await superuser.close()
    return run


class Explained(Exception):
    """Carries the plan out of the store function under test."""

    def __init__(self, plan: dict[str, Any]) -> None:
        super().__init__("explained")
        self.plan = plan


class Explaining:
    """A connection that explains what it is asked, and gives the plan instead of an answer."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn

    async def explain(self, statement: str, *values: object) -> Any:
        [[plan]] = await self._conn.fetch(f"explain (analyze, format json) {statement}", *values)
        raise Explained(plan[0]["Plan"])

    fetch = fetchrow = fetchval = explain


def rows_read(plan: dict[str, Any]) -> int:
    """Return how many rows the scans of a plan looked at, kept or not."""

    def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield node
        for child in node.get("Plans", []):
            yield from nodes(child)

    scans = [node for node in nodes(plan) if "Scan" in node["Node Type"] and node["Node Type"] not in ("Function Scan", "Subquery Scan")]
    return sum(round((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]) for node in scans)


async def read_by(db: Database, principal: Principal, call: Any) -> int:
    with pytest.raises(Explained) as caught:
        async with db.transaction(principal) as tx:
            tx.conn = Explaining(tx.conn)  # type: ignore[assignment]  # it does what the function under test asks of it
            await call(tx)
    return rows_read(caught.value.plan)


async def test_a_page_of_runs_reads_a_page(db: Database, crowded: Run, admin: Principal) -> None:
    for narrowed in (RunFilter(), RunFilter(state=RunState.FAILED), RunFilter(before=RUNS // 4), RunFilter(since=crowded.created_at)):
        read = await read_by(db, admin, lambda tx, narrowed=narrowed: store.list_runs(tx, admin.org_id, narrowed))
        assert read <= 210, narrowed


async def test_a_page_of_results_reads_a_page(db: Database, crowded: Run, admin: Principal) -> None:
    for narrowed in (ResultFilter(), ResultFilter(after=EVENTS // 2), ResultFilter(case_key="case 5003")):
        read = await read_by(db, admin, lambda tx, narrowed=narrowed: store.list_results(tx, crowded, narrowed))
        assert read <= 110, narrowed


async def test_a_live_reader_reads_what_is_new(db: Database, crowded: Run, admin: Principal) -> None:
    place = Place.of(crowded)

    new = await read_by(db, admin, lambda tx: live_store.read_events(tx, place, after=EVENTS - 100, limit=500))
    last = await read_by(db, admin, lambda tx: live_store.read_last(tx, place, EventType.LOG, up_to=EVENTS + 1, limit=100))
    log = await read_by(db, admin, lambda tx: store.read_log(tx, crowded, after=EVENTS // 2, limit=100))

    assert (new <= 60, last <= 220, log <= 220) == (True, True, True), (new, last, log)
