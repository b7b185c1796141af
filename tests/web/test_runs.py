"""The pages of runs, as a browser without scripts gets them."""

import httpx
import pytest

from probity.kernel.principal import ANONYMOUS, Principal
from probity.runs.ingest.service import IngestService
from probity.runs.models import Outcome, Run
from probity.runs.service import RunService
from probity.web.assets import DIRECTORY
from tests.http_app import TestAuthenticator
from tests.runs.builders import a_finish, a_log, a_result, a_run


@pytest.fixture
async def run(runs: RunService, ingest: IngestService, admin: Principal) -> Run:
    """A failed run with a failure, a flaky case and hostile names."""
    run = await runs.create(admin, a_run(name="nightly <script>alert(1)</script>"))
    await ingest.ingest(
        admin,
        run.id,
        [
            a_result("t::bad", Outcome.FAILED, suite="t", message="boom <b>", details="E   boom\n\nt.py:3: Error", stdout="\x1b[31mred"),
            a_result("t::flaky", Outcome.FAILED, suite="t", attempt=1),
            a_result("t::flaky", suite="t", attempt=2),
            a_log("hello\n"),
            a_finish(1),
        ],
    )
    return run


async def page(http: httpx.AsyncClient, callers: TestAuthenticator, who: Principal, path: str) -> httpx.Response:
    return await http.get(path, headers=callers.headers(who))


async def test_the_list_names_each_run_with_its_state_and_totals(
    http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal, run: Run
) -> None:
    reply = await page(http, callers, admin, "/runs")

    assert reply.status_code == 200
    assert f'href="/runs/{run.label}"' in reply.text
    assert "1 failed of 2" in reply.text
    assert "<script>alert" not in reply.text
    assert reply.headers["cache-control"] == "private, no-store"


async def test_filters_stand_in_the_address_and_an_unknown_one_is_ignored(
    http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal, run: Run
) -> None:
    failed = await page(http, callers, admin, "/runs?state=failed&q=nightly")
    passed = await page(http, callers, admin, "/runs?state=passed")
    odd = await page(http, callers, admin, "/runs?state=purple&project=x&cursor=nonsense")

    assert run.label in failed.text
    assert 'href="/runs?state=passed&amp;q=nightly"' in failed.text
    assert "No run matches" in passed.text
    assert run.label in odd.text


async def test_an_empty_list_says_what_to_do_next(http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal) -> None:
    reply = await page(http, callers, admin, "/runs")

    assert "probity run --wait" in reply.text


async def test_a_run_shows_its_failures_first_and_every_suite(
    http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal, run: Run
) -> None:
    reply = await page(http, callers, admin, f"/runs/{run.label}")

    assert reply.status_code == 200
    assert reply.text.index("Failures") < reply.text.index("All results")
    assert "flaky, 2 attempts" in reply.text
    assert "boom &lt;b&gt;" in reply.text
    assert "Abort run" not in reply.text


async def test_a_case_opens_with_all_its_attempts(http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal, run: Run) -> None:
    bad = await page(http, callers, admin, f"/runs/{run.label}/case?key=t::bad")
    flaky = await page(http, callers, admin, f"/runs/{run.label}/case?key=t::flaky")
    none = await page(http, callers, admin, f"/runs/{run.label}/case?key=t::none")

    assert '<span class="e">E   boom</span>' in bad.text
    assert '<span class="at">t.py:3: Error</span>' in bad.text
    assert ">red</pre>" in bad.text
    assert "Attempt 2: passed" in flaky.text
    assert "Attempt 1: failed" in flaky.text
    assert none.status_code == 404


async def test_the_log_comes_as_pieces_for_the_viewer(
    http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal, run: Run
) -> None:
    reply = await page(http, callers, admin, f"/runs/{run.label}/log.json?until=100")

    assert reply.json() == {"lines": [["stdout", "hello\n"]], "next": None}


async def test_failures_have_a_page_of_their_own(http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal, run: Run) -> None:
    reply = await page(http, callers, admin, f"/runs/{run.label}/results?outcome=failed")

    assert "t::bad" in reply.text
    assert "t::flaky" not in reply.text


async def test_aborting_leads_back_to_the_run_and_twice_is_harmless(
    http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal, runs: RunService
) -> None:
    run = await runs.create(admin, a_run())
    assert "Abort run" in (await page(http, callers, admin, f"/runs/{run.label}")).text

    first = await http.post(f"/runs/{run.label}/abort", headers=callers.headers(admin))
    again = await http.post(f"/runs/{run.label}/abort", headers=callers.headers(admin))

    assert {(reply.status_code, reply.headers["location"]) for reply in (first, again)} == {(303, f"/runs/{run.label}")}
    assert (await runs.get(admin, run.id)).state == "aborted"


@pytest.mark.parametrize("path", ["", "/results", "/case?key=t::bad", "/log.json?until=9"])
async def test_runs_of_others_and_nonsense_are_not_found(
    http: httpx.AsyncClient, callers: TestAuthenticator, outsider: Principal, run: Run, path: str
) -> None:
    for ref in (run.label, str(run.id), "RUN-999", "nonsense"):
        reply = await page(http, callers, outsider, f"/runs/{ref}{path}")

        assert reply.status_code == 404
        assert "Nothing is here" in reply.text


async def test_whoever_is_not_signed_in_is_sent_there_and_back(http: httpx.AsyncClient, callers: TestAuthenticator) -> None:
    reply = await page(http, callers, ANONYMOUS, "/runs?state=failed")

    assert (reply.status_code, reply.headers["location"]) == (303, "/sign-in?next=%2Fruns%3Fstate%3Dfailed")


async def test_large_runs_and_full_lists_stay_within_the_weight_of_a_page(
    http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal, runs: RunService, ingest: IngestService
) -> None:
    large = await runs.create(admin, a_run(name="large"))
    for suite in range(70):
        results = [
            a_result(f"tests.unit.test_part_{suite}::test_case_{n}", Outcome.FAILED if n == 0 else Outcome.PASSED, suite=f"tests.unit.test_part_{suite}",
                     message="AssertionError: " + "x" * 300 if n == 0 else None)
            for n in range(4)
        ]  # fmt: skip
        await ingest.ingest(admin, large.id, results)
    for n in range(52):
        await runs.create(admin, a_run(name=f"a run with a name of a usual length {n}", project="signing"))
    style = (DIRECTORY / "app.css").stat().st_size

    listed = await page(http, callers, admin, "/runs")
    shown = await page(http, callers, admin, f"/runs/{large.label}")

    assert len(listed.content) + style < 100_000
    assert len(shown.content) + style < 100_000
    assert "All 70 failures" in shown.text
    assert "All 280 results" in shown.text
