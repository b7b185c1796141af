import asyncio
from datetime import datetime
from typing import Any

import msgspec
import pytest

from probity.kernel.db import Database, fetch_rows
from probity.kernel.errors import Invalid
from probity.kernel.ids import new_id
from probity.kernel.principal import AgentId, CredentialKind, OrgId, PermissionMissing, Principal, PrincipalKind
from probity.runs.errors import NotThisAgentsRun, RunNotFound
from probity.runs.ingest.schemas import EventIn
from probity.runs.ingest.service import IngestService
from probity.runs.models import Outcome, Run, RunId, RunState, Totals
from probity.runs.service import RunService
from probity.runs.store import ResultFilter
from tests.fakes import FakeClock
from tests.runs.builders import a_finish, a_log, a_result, a_run, a_start


async def events_of(db: Database, admin: Principal, run: Run) -> list[Any]:
    async with db.transaction(admin) as tx:
        return await fetch_rows(tx, "select * from run_events where run_id = :id order by seq", id=run.id)


async def results_of(runs: RunService, admin: Principal, run: Run, **narrowed: Any) -> list[dict[str, Any]]:
    page = await runs.list_results(admin, run.id, ResultFilter(limit=200, **narrowed))
    return msgspec.json.decode(page.data)


async def test_a_repeated_batch_changes_nothing(db: Database, runs: RunService, ingest: IngestService, admin: Principal) -> None:
    run = await runs.create(admin, a_run())
    batch: list[EventIn] = [a_result("a"), a_result("b", Outcome.FAILED), a_log()]
    first = await ingest.ingest(admin, run.id, batch)

    again = await ingest.ingest(admin, run.id, batch)

    assert (first.accepted, first.duplicates) == (3, 0)
    assert (again.accepted, again.duplicates, again.last_seq) == (0, 3, first.last_seq)
    assert (await runs.get(admin, run.id)).totals == Totals(total=2, passed=1, failed=1)


async def test_the_first_content_of_an_event_id_wins(runs: RunService, ingest: IngestService, admin: Principal) -> None:
    run = await runs.create(admin, a_run())
    await ingest.ingest(admin, run.id, [a_result("a", Outcome.FAILED, id="x"), a_result("a", id="x")])

    await ingest.ingest(admin, run.id, [a_result("other", id="x")])

    assert [(row["case"], row["outcome"]) for row in await results_of(runs, admin, run)] == [("a", "failed")]


async def test_the_sequence_has_no_gap_under_concurrent_writers(
    db: Database, runs: RunService, ingest: IngestService, clock: FakeClock, admin: Principal
) -> None:
    run = await runs.create(admin, a_run())
    other = IngestService(db, clock)
    shared = [a_result(f"shared{number}") for number in range(20)]
    batches = [[a_result(f"case{writer}-{number}") for number in range(size)] for writer, size in enumerate([1, 3, 60, 5, 70, 1, 2, 55])]

    await asyncio.gather(
        *((ingest if index % 2 else other).ingest(admin, run.id, batch) for index, batch in enumerate(batches)),
        *(service.ingest(admin, run.id, shared) for service in (ingest, other, ingest)),
    )

    events = await events_of(db, admin, run)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert len(events) == 1 + sum(map(len, batches)) + len(shared)
    assert (await runs.get(admin, run.id)).totals.total == sum(map(len, batches)) + len(shared)


async def test_every_attempt_is_kept_and_the_final_one_counts(runs: RunService, ingest: IngestService, admin: Principal) -> None:
    run = await runs.create(admin, a_run())
    await ingest.ingest(admin, run.id, [a_result("a", Outcome.FAILED, attempt=1, message="boom", details="trace", stdout="out\x00")])

    await ingest.ingest(admin, run.id, [a_result("a", attempt=2), a_result("b", Outcome.XFAILED)])

    assert (await runs.get(admin, run.id)).totals == Totals(total=2, passed=1, skipped=1, flaky=1)
    first, second = await results_of(runs, admin, run, case_key="a")
    assert (first["attempt"], first["message"], first["details"]) == (
        1,
        "boom",
        {"details": "trace", "stdout": "out\N{REPLACEMENT CHARACTER}"},
    )
    assert (second["attempt"], second["outcome"]) == (2, "passed")


async def test_a_finished_event_ends_the_run_and_later_events_are_kept(
    db: Database, runs: RunService, ingest: IngestService, admin: Principal
) -> None:
    run = await runs.create(admin, a_run())

    await ingest.ingest(admin, run.id, [a_start(), a_result("a"), a_finish(0)])
    await ingest.ingest(admin, run.id, [a_result("late", Outcome.FAILED), a_finish(1)])

    after = await runs.get(admin, run.id)
    assert (after.state, after.exit_code, after.totals.total) == (RunState.PASSED, 0, 2)
    assert [event["type"] for event in await events_of(db, admin, run)] == ["status", "status", "result", "done", "result", "status"]


async def test_one_bad_batch_does_not_stop_its_neighbours(
    runs: RunService, ingest: IngestService, admin: Principal, outsider: Principal
) -> None:
    run = await runs.create(admin, a_run())
    theirs = await runs.create(outsider, a_run())

    outcomes = await asyncio.gather(
        ingest.ingest(admin, run.id, [a_result("a")]),
        ingest.ingest(outsider, run.id, [a_result("b")]),
        ingest.ingest(admin, RunId(new_id()), [a_result("c")]),
        ingest.ingest(outsider, theirs.id, [a_result("d")]),
        return_exceptions=True,
    )

    assert [type(outcome).__name__ for outcome in outcomes] == ["Ingested", "RunNotFound", "RunNotFound", "Ingested"]
    assert (await runs.get(admin, run.id)).totals.total == 1


async def test_another_organization_sees_nothing(runs: RunService, ingest: IngestService, admin: Principal, outsider: Principal) -> None:
    run = await runs.create(admin, a_run())
    await ingest.ingest(admin, run.id, [a_result("a"), a_log()])

    for call in (
        runs.get(outsider, run.id),
        runs.list_results(outsider, run.id, ResultFilter()),
        runs.read_log(outsider, run.id),
        runs.finish(outsider, run.id),
        runs.abort(outsider, run.id),
    ):
        with pytest.raises(RunNotFound):
            await call


async def test_partitions_hide_other_organizations_too(
    db: Database, runs: RunService, ingest: IngestService, admin: Principal, outsider: Principal
) -> None:
    run = await runs.create(admin, a_run())
    await ingest.ingest(admin, run.id, [a_result("a")])
    month = run.run_month.strftime("%Y%m")

    async with db.transaction(outsider) as tx:
        counts = [await tx.conn.fetchval(f"select count(*) from {table}_{month}") for table in ("results", "run_events")]

    assert counts == [0, 0]


def an_agent(org: OrgId) -> Principal:
    agent_id = AgentId(new_id())
    return Principal(
        kind=PrincipalKind.AGENT,
        actor=f"agent:{agent_id}",
        org_ids=(org,),
        active_org=org,
        credential=CredentialKind.AGENT_SECRET,
        agent_id=agent_id,
    )


async def test_an_agent_may_only_write_to_its_own_run(
    db: Database, runs: RunService, ingest: IngestService, admin: Principal, org: OrgId
) -> None:
    run = await runs.create(admin, a_run())
    holder, stranger = an_agent(org), an_agent(org)
    async with db.transaction(admin) as tx:
        await tx.conn.execute(
            """
            insert into jobs (id, org_id, lane, kind, state, correlation_id, run_id, claimed_by, claim_expires_at)
            values ($1, $2, 'agent', 'command', 'claimed', $1, $3, $4, now())
            """,
            new_id(), org, run.id, holder.agent_id,
        )  # fmt: skip

    with pytest.raises(NotThisAgentsRun):
        await ingest.ingest(stranger, run.id, [a_result("a")])
    await ingest.ingest(holder, run.id, [a_result("a")])
    async with db.transaction(admin) as tx:
        await tx.conn.execute("delete from jobs")

    assert (await ingest.ingest(holder, run.id, [a_result("b")])).accepted == 1
    assert (await runs.get(admin, run.id)).agent_id == holder.agent_id


async def test_writing_needs_a_permission(runs: RunService, ingest: IngestService, admin: Principal) -> None:
    run = await runs.create(admin, a_run())
    reader = msgspec.structs.replace(admin, permissions=frozenset({"runs:read"}))

    with pytest.raises(PermissionMissing):
        await ingest.ingest(reader, run.id, [a_result()])


async def test_an_event_id_with_nul_is_refused_and_named(runs: RunService, ingest: IngestService, admin: Principal) -> None:
    run = await runs.create(admin, a_run())

    with pytest.raises(Invalid) as caught:
        await ingest.ingest(admin, run.id, [a_log(), a_log(id="a\x00")])

    assert caught.value.fields[0].path == "events.1.id"


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
async def test_a_moment_that_no_time_zone_can_show_is_refused_and_named(
    runs: RunService, ingest: IngestService, admin: Principal, at: str
) -> None:
    run = await runs.create(admin, a_run())
    event = msgspec.structs.replace(a_log(), at=datetime.fromisoformat(at))

    with pytest.raises(Invalid) as refused:
        await ingest.ingest(admin, run.id, [a_log(), event])

    assert [field.path for field in refused.value.fields] == ["events.1.at"]


async def test_text_with_nul_and_odd_characters_is_kept_readable(runs: RunService, ingest: IngestService, admin: Principal) -> None:
    run = await runs.create(admin, a_run())

    await ingest.ingest(admin, run.id, [a_log("a\x00b"), a_log("\N{GRINNING FACE}\u2028\x1b[31m\n"), a_result("k\x00", name="n\x00")])

    text = "".join([piece async for piece in await runs.read_log(admin, run.id)])
    assert text == "a\N{REPLACEMENT CHARACTER}b\N{GRINNING FACE}\u2028\x1b[31m\n"
