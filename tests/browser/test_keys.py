"""Keys and new agents: what is shown once is not left by accident."""

import re

import pytest
from playwright.async_api import Dialog, expect

from tests.browser.conftest import Site

pytestmark = pytest.mark.browser


async def test_a_key_is_made_by_keyboard_copied_and_not_left_by_accident(site: Site) -> None:
    page = await site.open("/keys")
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opener = page.get_by_role("button", name="New key")
    await opener.focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Name")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_be_focused()
    await page.get_by_label("Name").fill("nightly")
    await page.keyboard.press("Enter")

    await page.get_by_role("button", name="Copy the key").click()
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert re.fullmatch("pa_[0-9a-f]{64}", copied)

    asked: list[str] = []

    async def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        await dialog.dismiss()

    page.on("dialog", stay)
    await page.evaluate("location.assign('/runs')")
    await page.wait_for_timeout(500)
    assert asked == ["beforeunload"]
    await page.get_by_role("link", name="I have stored it").click()

    await expect(page.get_by_role("table", name="Keys")).to_contain_text("nightly")
    assert asked == ["beforeunload"]


async def test_a_key_is_revoked_after_a_question_that_names_it(site: Site) -> None:
    (await site.api.post("/api/api-keys", json={"name": "nightly", "scope": "read"})).raise_for_status()
    page = await site.open("/keys")

    await page.get_by_role("button", name="Revoke nightly").click()
    await expect(page.get_by_role("dialog")).to_contain_text("Revoke “nightly”?")
    await page.get_by_role("dialog").get_by_role("button", name="Revoke key").click()

    await expect(page.get_by_role("table", name="Keys")).to_contain_text("Revoked")
