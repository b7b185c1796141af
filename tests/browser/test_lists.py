"""Lists, search and help, by keyboard."""

import pytest
from playwright.async_api import expect

from tests.browser.conftest import Site, finished

pytestmark = pytest.mark.browser


async def test_filters_work_by_keyboard_and_stand_in_the_address(site: Site) -> None:
    for name, code in (("nightly signing", 1), ("nightly keys", 0), ("smoke", 0)):
        await site.send(await site.new_run(name=name), finished(code))
    page = await site.open("/runs")
    rows = page.locator("#rows tr")
    await expect(rows).to_have_count(3)

    await page.keyboard.press("f")
    await page.keyboard.type("nightly")
    await expect(rows).to_have_count(2)
    await expect(page).to_have_url(f"{site.line.address}/runs?q=nightly")
    await expect(page.locator("#count")).to_have_text("2 runs")
    await expect(page.get_by_label("Filter by name or number")).to_be_focused()

    failed = page.get_by_role("link", name="Failed", exact=True)
    await failed.focus()
    await page.keyboard.press("Enter")
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text("nightly signing")
    await expect(page).to_have_url(f"{site.line.address}/runs?state=failed&q=nightly")
    await page.go_back()
    await expect(rows).to_have_count(2)


async def test_rows_are_walked_and_opened_by_keyboard(site: Site) -> None:
    first = await site.new_run(name="first")
    await site.new_run(name="second")
    page = await site.open("/runs")

    await page.keyboard.press("j")
    await expect(page.get_by_role("link", name="second")).to_be_focused()
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await expect(page.get_by_role("link", name="first")).to_be_focused()
    await page.keyboard.press("k")
    await page.keyboard.press("j")
    await page.keyboard.press("Enter")

    await expect(page).to_have_url(f"{site.line.address}/runs/{first['id']}")


async def test_a_new_run_and_a_new_state_arrive_without_reload(site: Site) -> None:
    run = await site.new_run(name="first")
    page = await site.open("/runs")
    await page.evaluate("window.mark = 1")

    await site.new_run(name="second")
    await site.send(run, finished(1))

    await expect(page.locator("#rows tr")).to_have_count(2, timeout=10_000)
    await expect(page.locator("#rows tr").last).to_contain_text("Failed", timeout=10_000)
    await expect(page.locator("#count")).to_have_text("2 runs")
    assert await page.evaluate("window.mark") == 1


async def test_new_rows_wait_while_the_pointer_is_on_the_list(site: Site) -> None:
    await site.new_run(name="first")
    page = await site.open("/runs")
    await page.locator("#rows tr").hover()

    await site.new_run(name="second")

    note = page.locator("#new-rows button")
    await expect(note).to_have_text("Show 1 new", timeout=10_000)
    await expect(page.locator("#rows tr")).to_have_count(1)
    await note.click()
    await expect(page.locator("#rows tr").first).to_contain_text("second")


async def test_more_rows_are_appended_page_by_page(site: Site) -> None:
    for number in range(53):
        await site.new_run(name=f"run {number}")
    page = await site.open("/runs")
    await expect(page.locator("#rows tr")).to_have_count(50)

    await page.get_by_role("link", name="Show more").click()

    await expect(page.locator("#rows tr")).to_have_count(53)
    await expect(page.get_by_role("link", name="Show more")).to_have_count(0)
    await expect(page.locator("#count")).to_have_text("53 runs")


async def test_search_finds_a_run_by_its_number_from_anywhere(site: Site) -> None:
    run = await site.new_run(name="signing suite")
    page = await site.open("/agents")

    await page.keyboard.press("/")
    await expect(page.get_by_role("combobox")).to_be_focused()
    await page.keyboard.type(run["id"].lower())
    await expect(page.locator("#hits a")).to_have_count(1)
    await page.keyboard.press("Enter")

    await expect(page.get_by_role("heading", name="signing suite")).to_be_visible()


async def test_escape_closes_the_search_and_the_focus_is_where_it_was(site: Site) -> None:
    page = await site.open("/runs")
    opener = page.get_by_role("button", name="Search runs and agents")

    await opener.focus()
    await page.keyboard.press("Control+k")
    await expect(page.locator("#palette")).to_be_visible()
    await page.keyboard.press("Escape")

    await expect(page.locator("#palette")).to_be_hidden()
    await expect(opener).to_be_focused()


async def test_g_goes_and_the_question_mark_helps(site: Site) -> None:
    page = await site.open("/runs")

    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    await page.keyboard.press("Escape")
    await page.keyboard.press("g")
    await page.keyboard.press("a")

    await expect(page.get_by_role("heading", name="Agents", level=1)).to_be_visible()


async def test_a_chosen_theme_stays_and_the_system_is_the_default(site: Site) -> None:
    page = await site.open("/runs", theme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = await page.evaluate(background)

    await page.get_by_label("Account of").click()
    await page.get_by_role("button", name="Light").click()
    light = await page.evaluate(background)
    await page.reload()

    assert dark != light
    assert await page.evaluate(background) == light
    await expect(page.locator("html")).to_have_attribute("data-theme", "light")


async def test_a_list_says_when_it_is_cut_off_and_recovers(site: Site) -> None:
    await site.new_run(name="first")
    page = await site.open("/runs")

    site.line.cut()
    await expect(page.locator("#live")).to_have_attribute("data-state", "offline", timeout=10_000)
    await site.new_run(name="second")
    site.line.mend()

    await expect(page.locator("#live")).to_have_attribute("data-state", "connected", timeout=10_000)
    await expect(page.locator("#rows tr")).to_have_count(2, timeout=10_000)
