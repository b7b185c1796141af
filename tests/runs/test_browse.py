"""What people see of a run: cases by their final attempt, suites with their tallies, pages that follow each other."""

import pytest

from probity.kernel.db import Database
from probity.kernel.principal import Principal
from probity.runs.browse.models import RunQuery
from probity.runs.browse.service import SMALL_RUN, RunBrowser
from probity.runs.errors import RunNotFound
from probity.runs.ingest.service import IngestService
from probity.runs.models import Outcome, RunState
from probity.runs.service import RunService
from tests.runs.builders import a_finish, a_log, a_result, a_run


@pytest.fixture
def browser(db: Database) -> RunBrowser:
    return RunBrowser(db)


async def test_a_case_is_shown_by_its_last_attempt_and_called_flaky_when_an_earlier_one_failed(
    runs: RunService, ingest: IngestService, browser: RunBrowser, admin: Principal
) -> None:
    run = await runs.create(admin, a_run())
    await ingest.ingest(
        admin,
        run.id,
        [
            a_result("t::a", Outcome.FAILED, attempt=1, suite="t", message="boom"),
            a_result("t::b", suite="t"),
            a_result("t::a", Outcome.PASSED, attempt=2, suite="t"),
        ],
    )

    page = await browser.list_cases(admin, run.id)

    assert [(case.name, case.outcome, case.attempts, case.is_flaky) for case in page.cases] == [
        ("a", Outcome.PASSED, 2, True),
        ("b", Outcome.PASSED, 1, False),
    ]


async def test_the_overview_counts_each_suite_and_lists_failures_first(
    runs: RunService, ingest: IngestService, browser: RunBrowser, admin: Principal
) -> None:
    run = await runs.create(admin, a_run())
    await ingest.ingest(
        admin,
        run.id,
        [
            a_result("z::1", suite="z", duration_ms=2),
            a_result("a::1", Outcome.ERROR, suite="a"),
            a_result("z::2", Outcome.SKIPPED, suite="z", duration_ms=3),
            a_result("f::1", file="tests/f.py"),
        ],
    )

    seen = await browser.overview(admin, run.number)

    assert [(suite.suite, suite.total, suite.passed, suite.bad, suite.skipped) for suite in seen.suites] == [
        ("z", 2, 1, 0, 1),
        ("a", 1, 0, 1, 0),
        ("tests/f.py", 1, 1, 0, 0),
    ]
    assert seen.suites[0].duration_ms == 5
    assert [case.case_key for case in seen.failures] == ["a::1"]
    assert seen.cases is not None
    assert len(seen.cases) == 4


async def test_a_large_run_leaves_its_rows_to_the_suites(
    runs: RunService, ingest: IngestService, browser: RunBrowser, admin: Principal
) -> None:
    run = await runs.create(admin, a_run())
    await ingest.ingest(admin, run.id, [a_result(f"s::{n}", suite="s") for n in range(SMALL_RUN + 160)])

    seen = await browser.overview(admin, run.id)
    first = await browser.list_cases(admin, run.id, suite="s")
    assert first.next_after is not None
    second = await browser.list_cases(admin, run.id, suite="s", after=first.next_after)

    assert seen.cases is None
    assert seen.suites[0].total == SMALL_RUN + 160
    assert [case.name for case in first.cases + second.cases] == [str(n) for n in range(SMALL_RUN + 160)]
    assert second.next_after is None


async def test_runs_come_newest_first_page_by_page_and_are_counted(runs: RunService, browser: RunBrowser, admin: Principal) -> None:
    for n in range(5):
        await runs.create(admin, a_run(name=f"nightly {n}"))
    await runs.create(admin, a_run(name="100% other"))

    first = await browser.list_runs(admin, RunQuery(text="nightly", limit=3))
    second = await browser.list_runs(admin, RunQuery(text="nightly", limit=3, before=first.next_before))
    special = await browser.list_runs(admin, RunQuery(text="0% o"))

    assert [run.name for run in first.runs + second.runs] == [f"nightly {n}" for n in (4, 3, 2, 1, 0)]
    assert first.count == second.count == 5
    assert second.next_before is None
    assert [run.name for run in special.runs] == ["100% other"]


async def test_a_run_is_found_by_its_number_and_state(
    runs: RunService, ingest: IngestService, browser: RunBrowser, admin: Principal
) -> None:
    ended = await runs.create(admin, a_run())
    await runs.create(admin, a_run())
    await ingest.ingest(admin, ended.id, [a_finish(1)])

    by_label = await browser.list_runs(admin, RunQuery(text=f"run-{ended.number}"))
    by_state = await browser.list_runs(admin, RunQuery(state=RunState.FAILED))

    assert [run.id for run in by_label.runs] == [run.id for run in by_state.runs] == [ended.id]


async def test_attempts_of_a_case_come_with_their_long_texts(
    runs: RunService, ingest: IngestService, browser: RunBrowser, admin: Principal
) -> None:
    run = await runs.create(admin, a_run())
    await ingest.ingest(
        admin,
        run.id,
        [a_result("t::a", Outcome.FAILED, details="Traceback", stdout="out", file="t.py", line=3), a_result("t::a", attempt=2)],
    )

    _, attempts = await browser.list_attempts(admin, run.id, "t::a")

    assert [(attempt.attempt, attempt.details, attempt.stdout, attempt.line) for attempt in attempts] == [
        (2, None, None, None),
        (1, "Traceback", "out", 3),
    ]


async def test_a_log_is_read_in_pages_up_to_the_event_that_the_page_knows(
    runs: RunService, ingest: IngestService, browser: RunBrowser, admin: Principal
) -> None:
    run = await runs.create(admin, a_run())
    known = await ingest.ingest(admin, run.id, [a_log(f"{n}\n") for n in range(620)])
    await ingest.ingest(admin, run.id, [a_log("later\n", stream="stderr")])

    first = await browser.read_log(admin, run.id, after=0, until=known.last_seq)
    assert first.next_after is not None
    rest = await browser.read_log(admin, run.id, after=first.next_after, until=known.last_seq)

    assert "".join(piece.text for piece in first.pieces + rest.pieces) == "".join(f"{n}\n" for n in range(620))
    assert rest.next_after is None


async def test_nothing_of_another_organization_is_seen(
    runs: RunService, ingest: IngestService, browser: RunBrowser, admin: Principal, outsider: Principal
) -> None:
    run = await runs.create(admin, a_run())
    await ingest.ingest(admin, run.id, [a_result(), a_log()])

    assert (await browser.list_runs(outsider, RunQuery())).count == 0
    for look in (
        browser.overview(outsider, run.id),
        browser.list_cases(outsider, run.id),
        browser.list_attempts(outsider, run.id, "suite::case"),
        browser.read_log(outsider, run.id, after=0, until=100),
    ):
        with pytest.raises(RunNotFound):
            await look
