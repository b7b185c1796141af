"""A run page that fills while one looks at it."""

import asyncio

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import Site, finished, log, result

pytestmark = pytest.mark.browser


async def mark(page: Page) -> None:
    """Leave a mark that a reload would wipe out."""
    await page.evaluate("window.mark = 'same page'")


async def assert_never_reloaded(page: Page) -> None:
    assert await page.evaluate("window.mark") == "same page"


async def test_a_run_fills_without_reload_and_ends(site: Site) -> None:
    run = await site.new_run()
    page = await site.open(f"/runs/{run['id']}")
    await mark(page)
    await expect(page.locator("#live")).to_have_attribute("data-state", "connected")

    await site.send(run, log("collected 4 items\n"), result("test_sign"), result("test_unsign"))
    await expect(page.locator('#totals [data-key="passed"] b')).to_have_text("2")
    await expect(page.locator(".group")).to_contain_text("tests.test_signer")
    await expect(page.locator("#groups")).to_contain_text("test_unsign")
    await expect(page.locator("#log")).to_contain_text("collected 4 items")

    await site.send(
        run,
        result(
            "test_expiry",
            "failed",
            message="AssertionError: too old",
            details="    assert age < 10\nE   AssertionError: too old\n\nt.py:3: AssertionError",
        ),
        result("test_key", suite="tests.test_key"),
    )
    failures = page.locator("#failures")
    await expect(failures).to_contain_text("test_expiry")
    await expect(failures).to_contain_text("AssertionError: too old")
    await expect(page.locator('#totals [data-key="failed"] b')).to_have_text("1")
    await expect(page).to_have_title(f"1 failed, 3 passed · {run['id']} · Probity")

    await failures.locator("summary").click()
    await expect(failures.locator(".trace .e")).to_have_text("E   AssertionError: too old")

    await site.send(run, finished(1))
    await expect(page.locator("#run-state")).to_contain_text("Failed")
    await expect(page.locator("#live")).to_be_hidden()
    await expect(page.get_by_role("button", name="Abort run")).to_have_count(0)
    await assert_never_reloaded(page)


async def test_a_retried_case_becomes_flaky_and_is_counted_once(site: Site) -> None:
    run = await site.new_run()
    await site.send(run, result("test_net", "failed", message="timed out"))
    page = await site.open(f"/runs/{run['id']}")
    await expect(page.locator("#failures")).to_contain_text("test_net")
    await expect(page.locator("#live")).to_have_attribute("data-state", "connected")

    await site.send(run, result("test_net", "passed", attempt=2))

    await expect(page.locator('#totals [data-key="flaky"] b')).to_have_text("1")
    await expect(page.locator('#totals [data-key="total"] b')).to_have_text("1")
    await expect(page.locator("#groups .case")).to_contain_text("flaky, 2 attempts")
    await expect(page.locator(".group .ok")).to_have_text("1 passed")
    await page.locator("#groups .case summary").click()
    await expect(page.locator("#groups .case .detail")).to_contain_text("Attempt 1: failed")


async def test_after_a_cut_the_page_catches_up_and_shows_every_event_once(site: Site) -> None:
    run = await site.new_run()
    page = await site.open(f"/runs/{run['id']}")
    await mark(page)
    live = page.locator("#live")
    await expect(live).to_have_attribute("data-state", "connected")
    await site.send(run, log("line 1\n"), result("test_1"))
    await expect(page.locator("#log .ln")).to_have_count(1)

    site.line.cut()
    await expect(live).to_have_attribute("data-state", "offline")
    for number in range(2, 8):
        await site.send(run, log(f"line {number}\n"), result(f"test_{number}"))
    site.line.mend()

    await expect(live).to_contain_text("caught up on 12 events", timeout=20_000)
    await expect(live).to_have_attribute("data-state", "connected")
    assert await page.locator("#log .ln").all_inner_texts() == [f"line {number}" for number in range(1, 8)]
    await expect(page.locator("#groups li[data-case]")).to_have_count(7)
    await expect(page.locator('#totals [data-key="total"] b')).to_have_text("7")
    await expect(page.locator(".group .ok")).to_have_text("7 passed")
    await assert_never_reloaded(page)


async def test_what_came_before_the_page_and_what_comes_after_join_without_a_gap(site: Site) -> None:
    run = await site.new_run()
    await site.send(run, *[log(f"line {number}\n") for number in range(450)], log("half a "))
    page = await site.open(f"/runs/{run['id']}")
    await expect(page.locator("#live")).to_have_attribute("data-state", "connected")

    await site.send(run, log("line\nlast\n"))

    await expect(page.locator("#log")).to_contain_text("last")
    lines = await page.locator("#log .ln").all_inner_texts()
    assert lines[-2:] == ["half a line", "last"]
    assert await page.locator("#log .ln").last.get_attribute("data-n") == "452"


async def test_the_log_follows_until_one_scrolls_up_and_says_what_came_meanwhile(site: Site) -> None:
    run = await site.new_run()
    await site.send(run, *[log(f"\x1b[32mline\x1b[0m {number}\n") for number in range(300)])
    page = await site.open(f"/runs/{run['id']}?tab=log")
    box, follow = page.locator("#log"), page.locator("#log-follow")
    await expect(box).to_contain_text("line 299")
    await expect(box.locator(".c2").first).to_have_text("line")
    assert await box.locator(".ln").count() < 200, "only what is near the view is in the page"

    await box.evaluate("box => { box.scrollTop = 0; }")
    await expect(follow).to_be_visible()
    await site.send(run, log("news\n"), log("more news\n"))
    await expect(follow).to_have_text("Follow, 2 new lines")
    assert await box.evaluate("box => box.scrollTop") == 0
    await follow.click()
    await expect(box).to_contain_text("more news")
    await expect(follow).to_be_hidden()


async def test_the_log_is_searched_in_place_and_wraps_on_demand(site: Site) -> None:
    run = await site.new_run()
    await site.send(run, *[log(f"line {number} {'x' * 400 if number == 77 else ''}\n") for number in range(200)], finished())
    page = await site.open(f"/runs/{run['id']}?tab=log")
    await expect(page.locator("#log")).to_contain_text("line 199")

    await page.keyboard.press("f")
    await page.keyboard.type("line 77")
    await expect(page.locator("#log-hits")).to_have_text("1 of 1")
    await expect(page.locator("#log [data-hit]")).to_contain_text("line 77")
    await page.get_by_role("button", name="Wrap").click()

    wide = await page.locator("#log").evaluate("box => box.scrollWidth - box.clientWidth")
    assert wide <= 1


async def test_nothing_moves_under_the_pointer(site: Site) -> None:
    run = await site.new_run()
    await site.send(run, *[result(f"test_{number}") for number in range(5)])
    page = await site.open(f"/runs/{run['id']}")
    await expect(page.locator("#live")).to_have_attribute("data-state", "connected")
    row = page.locator("#groups li[data-case]").nth(3)
    await row.hover()
    before = await row.bounding_box()

    await site.send(run, result("test_bad", "failed", suite="tests.other", message="boom"))
    await expect(page.locator("#held")).to_contain_text("Show 1 more")
    after = await row.bounding_box()
    assert before == after
    await expect(page.locator('#totals [data-key="failed"] b')).to_have_text("1")

    await page.mouse.move(5, 5)
    await expect(page.locator("#failures")).to_contain_text("test_bad")


async def test_a_large_run_opens_its_suites_on_demand(site: Site) -> None:
    run = await site.new_run()
    await site.send(run, *[result(f"test_{number}", suite=f"tests.test_{number % 2}") for number in range(300)], finished())
    page = await site.open(f"/runs/{run['id']}")
    group = page.locator(".group").first
    await expect(group).to_contain_text("150 passed")
    assert await page.locator("#groups li[data-case]").count() == 0

    await group.locator("summary").first.press("Enter")

    await expect(group.locator("li[data-case]")).to_have_count(150)


async def test_a_run_is_aborted_after_a_question_that_names_it(site: Site) -> None:
    run = await site.new_run(name="nightly")
    page = await site.open(f"/runs/{run['id']}")
    opener = page.get_by_role("button", name="Abort run")

    await opener.click()
    await expect(page.get_by_role("dialog")).to_contain_text("nightly")
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await expect(opener).to_be_focused()
    await opener.click()
    await page.get_by_role("dialog").get_by_role("button", name="Abort run").click()

    await expect(page.locator("#run-state")).to_contain_text("Aborted")


async def test_tabs_stand_in_the_address(site: Site) -> None:
    run = await site.new_run()
    await site.send(run, log("hello\n"), finished())
    page = await site.open(f"/runs/{run['id']}")

    await page.get_by_role("link", name="Log").click()
    await expect(page).to_have_url(f"{site.line.address}/runs/{run['id']}?tab=log")
    await expect(page.locator(".results")).to_be_hidden()
    await page.go_back()
    await expect(page.locator(".results")).to_be_visible()


async def test_a_page_of_a_running_run_ticks(site: Site) -> None:
    run = await site.new_run()
    page = await site.open(f"/runs/{run['id']}")
    took = page.locator("#run-took span")
    first = await took.inner_text()

    await asyncio.sleep(1.5)

    assert await took.inner_text() != first


async def test_a_failure_that_waits_and_passes_meanwhile_is_not_shown_as_one(site: Site) -> None:
    run = await site.new_run()
    await site.send(run, *[result(f"test_{number}") for number in range(5)], result("test_x", suite="tests.later"))
    page = await site.open(f"/runs/{run['id']}")
    await expect(page.locator("#live")).to_have_attribute("data-state", "connected")
    await page.locator("#groups li[data-case]").nth(2).hover()

    await site.send(run, result("test_bad", "failed", message="boom"))
    await expect(page.locator("#held")).to_contain_text("Show 2 more")
    await site.send(run, result("test_bad", attempt=2))
    await expect(page.locator('#totals [data-key="flaky"] b')).to_have_text("1")
    await page.mouse.move(5, 5)

    await expect(page.locator("#groups li[data-case]")).to_have_count(7)
    await expect(page.locator("#groups")).to_contain_text("flaky, 2 attempts")
    await expect(page.locator("#failures")).to_be_hidden()
    await expect(page.locator(".group .ok").first).to_have_text("6 passed")
