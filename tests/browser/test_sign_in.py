"""Signing in and out, by keyboard."""

import pytest
from playwright.async_api import expect

from tests.browser.conftest import EMAIL, PASSWORD, Site, sign_in

pytestmark = pytest.mark.browser


async def test_the_sign_in_leads_back_to_where_one_wanted_to_go(site: Site) -> None:
    page = await site.open("/agents", signed_in=False)
    await expect(page).to_have_url(f"{site.line.address}/sign-in?next=%2Fagents")
    await expect(page.get_by_label("Email")).to_be_focused()

    await page.keyboard.type(EMAIL)
    await page.keyboard.press("Tab")
    await page.keyboard.type(PASSWORD)
    await page.keyboard.press("Enter")

    await expect(page.get_by_role("heading", name="Agents", level=1)).to_be_visible()


async def test_a_wrong_password_is_said_where_the_focus_is_and_the_next_try_works(site: Site) -> None:
    page = await site.open("/sign-in", signed_in=False)

    await sign_in(page, "wrong")

    await expect(page.get_by_role("alert")).to_contain_text("The email or the password is wrong")
    await expect(page.get_by_role("alert")).to_be_focused()
    await expect(page.get_by_label("Email")).to_have_value(EMAIL)
    await sign_in(page)
    await expect(page).to_have_url(f"{site.line.address}/runs")


async def test_a_password_can_be_looked_at_and_hidden_again(site: Site) -> None:
    page = await site.open("/sign-in", signed_in=False)
    field = page.get_by_label("Password", exact=True)
    await field.fill("secret")

    await page.get_by_role("button", name="Show the password").click()
    await expect(field).to_have_attribute("type", "text")
    await page.get_by_role("button", name="Show the password").click()
    await expect(field).to_have_attribute("type", "password")


async def test_signing_out_ends_every_tab(site: Site) -> None:
    page = await site.open("/runs")
    other = await page.context.new_page()
    await other.goto("/runs")

    await page.get_by_label("Account of").click()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page).to_have_url(f"{site.line.address}/sign-in")

    # A list asks for news every few seconds, and hears that nobody is signed in.
    await expect(other).to_have_url(f"{site.line.address}/sign-in?next=%2Fruns", timeout=15_000)
