import asyncio
from datetime import date

import asyncpg
import msgspec
import pytest

from probity.kernel.db import Database, fetch_value
from probity.kernel.ids import hex24
from probity.kernel.principal import Principal
from probity.runs.errors import RunMismatch, RunNotFound, RunNotInProgress
from probity.runs.ingest.service import IngestService
from probity.runs.ingest.store import add_month
from probity.runs.models import Outcome, RunKind, RunState, month_of
from probity.runs.service import RunService, parse_ref
from probity.runs.store import RunFilter
from probity.runs.tasks import add_months
from tests.fakes import FakeClock
from tests.runs.builders import a_result, a_run


async def test_runs_are_numbered_per_organization(runs: RunService, admin: Principal, outsider: Principal) -> None:
    labels = [(await runs.create(admin, a_run())).label for _ in range(2)]

    assert labels == ["RUN-1", "RUN-2"]
    assert (await runs.create(outsider, a_run())).label == "RUN-1"


async def test_a_run_is_found_by_any_spelling_of_its_name(runs: RunService, admin: Principal) -> None:
    run = await runs.create(admin, a_run())

    for text in (str(run.id), run.id.hex, hex24(run.id), "RUN-1", "run-1"):
        assert (await runs.get(admin, parse_ref(text))).id == run.id


@pytest.mark.parametrize("text", ["RUN-0", "RUN-", "RUN-9999999999999999999", "x", "", "1", "../RUN-1"])
async def test_nonsense_names_no_run(text: str) -> None:
    with pytest.raises(RunNotFound):
        parse_ref(text)


async def test_a_repeated_create_with_the_same_key_returns_the_first_run(runs: RunService, admin: Principal) -> None:
    made = await asyncio.gather(*(runs.create(admin, a_run(client_run_id="ci-1")) for _ in range(4)), return_exceptions=True)
    first = next(run for run in made if not isinstance(run, BaseException))

    assert all(run.id == first.id for run in made if not isinstance(run, BaseException))
    assert not [error for error in made if isinstance(error, BaseException)]
    assert (await runs.create(admin, a_run(client_run_id="ci-1"))).id == first.id
    with pytest.raises(RunMismatch):
        await runs.create(admin, a_run(client_run_id="ci-1", name="another"))


async def test_finishing_decides_by_the_results(runs: RunService, db: Database, clock: FakeClock, admin: Principal) -> None:
    run = await runs.create(admin, a_run())
    await IngestService(db, clock).ingest(admin, run.id, [a_result("a", Outcome.ERROR)])

    finished = await runs.finish(admin, run.id)

    assert (finished.state, finished.kind) == (RunState.FAILED, RunKind.EXTERNAL)
    with pytest.raises(RunNotInProgress):
        await runs.finish(admin, run.id)
    with pytest.raises(RunNotInProgress):
        await runs.abort(admin, run.id)


async def test_create_and_finish_are_on_the_trail(runs: RunService, db: Database, admin: Principal) -> None:
    run = await runs.create(admin, a_run())
    await runs.abort(admin, run.id)

    async with db.transaction(admin) as tx:
        actions = await fetch_value(tx, "select array_agg(action order by id) from audit_events where resource = :r", r=f"run:{run.id}")
    assert actions == ["run.create", "run.abort"]


async def test_lists_page_without_gaps_and_filter(runs: RunService, clock: FakeClock, admin: Principal) -> None:
    made = []
    for number in range(7):
        made.append(await runs.create(admin, a_run(name=f"suite {number % 3} 100%_")))
        clock.advance(60)
    await runs.abort(admin, made[0].id)

    seen: list[str] = []
    cursor = None
    while True:
        page = await runs.list_runs(admin, RunFilter(limit=3, before=int(cursor) if cursor else None))
        seen += [row["id"] for row in msgspec.json.decode(page.data)]
        cursor = page.next_cursor
        if cursor is None:
            break

    async def found(**narrowed: object) -> list[str]:
        page = await runs.list_runs(admin, RunFilter(**narrowed))  # type: ignore[arg-type]
        return [row["id"] for row in msgspec.json.decode(page.data)]

    assert seen == [f"RUN-{number}" for number in range(7, 0, -1)]
    assert await found(state=RunState.ABORTED) == ["RUN-1"]
    assert await found(text="SUITE 1") == ["RUN-5", "RUN-2"]
    assert await found(text="100%_") == seen
    assert await found(text="100x") == []
    assert await found(text="run-3") == ["RUN-3"]
    assert await found(since=made[5].created_at) == ["RUN-7", "RUN-6"]
    assert await found(since=clock.now()) == []


async def test_months_are_made_ahead_and_on_demand_by_a_role_that_owns_nothing(db: Database, admin: Principal) -> None:
    await add_months(db, FakeClock().now())
    async with db.transaction(admin) as tx:
        await asyncio.sleep(0)
        await add_month(tx, date(2025, 5, 17))

    async with db.transaction(admin) as tx:
        names = await fetch_value(
            tx, "select array_agg(relname::text) from pg_class where relname ~ '^results_2025|^run_events_2026(01|04)$'"
        )
    assert set(names) >= {"results_202505", "run_events_202601", "run_events_202604"}


async def test_two_transactions_may_ask_for_the_same_month(db: Database, admin: Principal) -> None:
    async def ask() -> None:
        async with db.transaction(admin) as tx:
            await add_month(tx, date(2024, 2, 1))

    await asyncio.gather(*(ask() for _ in range(4)))


async def test_a_month_out_of_reason_is_refused(db: Database, admin: Principal) -> None:
    with pytest.raises(asyncpg.DatetimeFieldOverflowError):
        async with db.transaction(admin) as tx:
            await add_month(tx, date(2999, 1, 1))


async def test_the_month_comes_from_the_id(runs: RunService, admin: Principal) -> None:
    run = await runs.create(admin, a_run())

    assert run.run_month == month_of(run.id) and run.run_month.day == 1
