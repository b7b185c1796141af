"""What holds for every page: readable by everybody, no wider than a phone, light; and a picture of each for the documentation."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, Response, expect

from tests.browser.conftest import NARROW, WIDE, Site, finished, log, result

pytestmark = pytest.mark.browser

_IMAGES = Path(__file__).parents[2] / "docs" / "images"
_KEEP_PICTURES = "PROBITY_SCREENSHOTS" in os.environ

# Nothing to see, or something that is shown once.
_NO_PICTURE = ("menu", "help", "key-new", "key-made", "agent-add")

TRACEBACK = """    def test_expiry(signer):
        value = signer.sign(b"value")
>       assert signer.unsign(value, max_age=10) == b"other"
E       AssertionError: assert b'value' == b'other'
E
E         At index 0 diff: b'v' != b'o'

tests/test_timed.py:61: AssertionError"""

_FAILED: dict[str, Any] = {
    "outcome": "failed",
    "message": "AssertionError: assert b'value' == b'other'",
    "details": TRACEBACK,
    "file": "tests/test_timed.py",
    "line": 61,
    "stdout": "signed at 2026-11-22T10:00:00Z\n",
}
_WORDS = {"passed": ("PASSED", 32), "failed": ("FAILED", 31), "skipped": ("SKIPPED", 33)}


async def a_story(site: Site) -> dict[str, str]:
    """Fill the server with what a team sees on a weekday; return the addresses of the pages worth looking at."""
    agents = await _enrol(site)
    for name, project, total, bad in (
        ("markupsafe test suite", "templates", 78, 0),
        ("nightly signing checks", "signing", 140, 2),
        ("payments smoke", "payments", 24, 0),
    ):
        run = await site.new_run(name=name, project=project)
        await site.send(run, *[result(f"test_{n}", "failed" if n < bad else "passed") for n in range(total)], finished(1 if bad else 0))
    retried = await site.new_run(name="links of the documentation", project="docs")
    await site.send(retried, result("test_links", "failed"), result("test_links", attempt=2), finished())
    aborted = await site.new_run(name="load test", project="payments")
    await site.send(aborted, result("test_warm_up"))
    (await site.api.post(f"/api/v1/runs/{aborted['uuid']}/abort")).raise_for_status()
    queued = await site.new_run(name="nightly signing checks", project="signing", command=["python", "-m", "pytest", "-q"], tags=["arm64"])
    running = await _dispatch(site, agents["build-1"])
    for name, scope in (("nightly pipeline", "read-write"), ("status board", "read")):
        (await site.api.post("/api/api-keys", json={"name": name, "scope": scope})).raise_for_status()
    return {
        "sign-in": "/sign-in",
        "runs": "/runs",
        "run": f"/runs/{running['id']}",
        "run-log": f"/runs/{running['id']}?tab=log",
        "run-artifacts": f"/runs/{running['id']}?tab=artifacts",
        "run-queued": f"/runs/{queued['id']}",
        "run-case": f"/runs/{running['id']}/case?key=tests.test_timed::test_expiry",
        "run-results": f"/runs/{running['id']}/results?suite=tests.test_timed",
        "agents": "/agents",
        "agent": f"/agents/{agents['build-1']['X-Agent-ID']}",
        "keys": "/keys",
        "not-found": "/runs/RUN-404",
    }


async def _enrol(site: Site) -> dict[str, dict[str, str]]:
    """Enrol three machines, one of which never says a word again; return their credentials."""
    token = (await site.api.post("/api/v1/enrollment-tokens", json={"max_uses": 3})).json()["enrollment_token"]
    agents: dict[str, dict[str, str]] = {}
    for name, tags in (("build-1", ["linux", "gpu"]), ("mac-mini", ["macos"]), ("night-shift", ["linux"])):
        facts = {"agent_version": "0.1.0", "capabilities": ["command"], "hostname": f"{name}.example.org", "os": "Linux", "arch": "x86_64"}
        joined = await site.api.post("/api/v1/agents/enroll", json={"enrollment_token": token, "agent_name": name, "tags": tags} | facts)
        joined.raise_for_status()
        secret = agents[name] = {"X-Agent-ID": joined.json()["agent_id"], "X-Agent-Secret": joined.json()["agent_token"]}
        if name != "mac-mini":
            path = f"/api/v1/agents/{secret['X-Agent-ID']}/heartbeat"
            (await site.api.post(path, json={"status": "ok"}, headers=secret)).raise_for_status()
    return agents


async def _dispatch(site: Site, agent: dict[str, str]) -> dict[str, Any]:
    """Dispatch a suite, let the agent take it and report the first half."""
    run = await site.new_run(
        name="itsdangerous test suite", project="signing", command=["python", "-m", "pytest", "-p", "xdist", "tests"], agent="build-1"
    )
    (await site.api.post(f"/api/v1/agents/{agent['X-Agent-ID']}/jobs/claim", headers=agent)).raise_for_status()
    await _report(site, run, agent)
    for name, content, kind in (("junit.xml", b"<testsuites/>", "application/xml"), ("report/index.html", b"<p>report</p>", "text/html")):
        kept = await site.api.post(
            f"/api/v1/runs/{run['uuid']}/artifacts", params={"name": name}, content=content, headers={"content-type": kind} | agent
        )
        kept.raise_for_status()
    return run


async def _report(site: Site, run: dict[str, Any], agent: dict[str, str]) -> None:
    await site.send(
        run,
        {"type": "status", "state": "running"},
        log("\x1b[1m============================= test session starts =============================\x1b[0m\n"),
        log("platform linux, Python 3.11.7, pytest-9.0\ncollected 297 items\n\n"),
        agent=agent,
    )
    for suite, total in (("tests.test_signer", 41), ("tests.test_serializer", 53), ("tests.test_timed", 22), ("tests.test_url_safe", 9)):
        events: list[dict[str, Any]] = []
        for n in range(total):
            case, facts = f"test_{suite.rpartition('_')[2]}_{n:02d}", dict[str, Any]()
            if suite == "tests.test_timed" and n == 4:
                case, facts = "test_expiry", _FAILED
            elif suite == "tests.test_timed" and n == 9:
                case, facts = "test_clock_skew", {"attempt": 2}
                events.append(result(case, "failed", suite=suite, message="clock went backwards"))
            elif suite == "tests.test_serializer" and n in (7, 8):
                facts = {"outcome": "skipped"}
            word, colour = _WORDS[facts.get("outcome", "passed")]
            events.append(result(case, suite=suite, **({"duration_ms": 3.0 + n * 1.7} | facts)))
            events.append(log(f"{suite.replace('.', '/')}.py::{case} \x1b[{colour}m{word}\x1b[0m\n"))
        await site.send(run, *events, agent=agent)


async def violations(page: Page) -> list[str]:
    """Return what axe calls serious or critical, with the elements."""
    found = (await Axe().run(page)).response["violations"]
    return [
        f"{one['id']} ({one['impact']}): {one['help']}: {node['html'][:160]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_every_page_is_accessible_and_fits_a_phone(site: Site, theme: str) -> None:
    problems: list[str] = []
    addresses = await a_story(site)
    for size in (WIDE, NARROW):
        page = await site.open("/runs", theme=theme, size=size)
        for name, path in addresses.items():
            if name == "sign-in":
                await page.context.clear_cookies()
            await page.goto(path)
            await page.wait_for_timeout(500)
            if name == "sign-in":
                await _look(page, name, theme, size, problems)
                await page.context.close()
                page = await site.open("/runs", theme=theme, size=size)
                continue
            if name == "run":
                await page.locator("#failures summary").first.click()
                await expect(page.locator("#failures .trace").first).to_be_visible()
                await page.mouse.move(2, 300)
            await _look(page, name, theme, size, problems)
        await page.context.close()
    assert problems == []


async def _look(page: Page, name: str, theme: str, size: tuple[int, int], problems: list[str]) -> None:
    problems += [f"{name} {theme} {size[0]}: {problem}" for problem in await violations(page)]
    width = await page.evaluate("document.documentElement.scrollWidth")
    if width > size[0]:
        problems.append(f"{name} is {width} px wide on a screen of {size[0]}")
    if _KEEP_PICTURES and name not in _NO_PICTURE and (size is WIDE or name in ("run", "runs", "agents")):
        suffix = ("-dark" if theme == "dark" else "") + ("-narrow" if size is NARROW else "")
        await page.screenshot(path=_IMAGES / f"{name}{suffix}.png")


async def _new_key(page: Page) -> None:
    await page.goto("/keys")
    await page.get_by_role("button", name="New key").click()


async def _made_key(page: Page) -> None:
    await _new_key(page)
    await page.get_by_label("Name").fill("nightly")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("link", name="I have stored it")).to_be_visible()


async def _added_agent(page: Page) -> None:
    await page.goto("/agents")
    await page.get_by_role("button", name="Add an agent").click()
    await expect(page.get_by_role("heading", name="Add an agent")).to_be_visible()


OPENERS: dict[str, Callable[[Page], Awaitable[None]]] = {
    "search": lambda page: page.keyboard.press("/"),
    "help": lambda page: page.keyboard.press("?"),
    "menu": lambda page: page.get_by_label("Account of").click(),
    "key-new": _new_key,
    "key-made": _made_key,
    "agent-add": _added_agent,
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_dialogs_and_menus_are_accessible(site: Site, theme: str) -> None:
    await site.new_run(name="one")
    problems: list[str] = []
    for name, opener in OPENERS.items():
        page = await site.open("/runs", theme=theme)
        await opener(page)
        await page.wait_for_timeout(400)
        await _look(page, name, theme, WIDE, problems)
        await page.context.close()
    assert problems == []


async def test_on_a_phone_the_rail_is_a_sheet_that_escape_closes(site: Site) -> None:
    page = await site.open("/runs", size=NARROW)
    menu, rail = page.get_by_role("button", name="Menu"), page.locator("#rail")
    await expect(rail).to_be_hidden()

    await menu.click()
    await expect(rail.get_by_role("link", name="Runs")).to_be_focused()
    await page.keyboard.press("Escape")

    await expect(rail).to_be_hidden()
    await expect(menu).to_be_focused()


@pytest.mark.timeout(300)
async def test_a_page_weighs_little(site: Site) -> None:
    addresses = await a_story(site)
    page = await site.open("/agents")
    for name, path in addresses.items():
        weights = {"markup": 0, "scripts": 0}

        async def weigh(reply: Response, weights: dict[str, int] = weights) -> None:
            kind = reply.request.resource_type
            if kind in ("document", "stylesheet", "script") and reply.status == 200:
                weights["scripts" if kind == "script" else "markup"] += len(await reply.body())

        page.on("response", weigh)
        await page.goto(path)
        await page.wait_for_timeout(300)
        page.remove_listener("response", weigh)

        assert weights["markup"] < 100_000, (name, weights)
        assert weights["scripts"] < 60_000, (name, weights)


async def test_without_scripts_the_pages_can_still_be_read(site: Site) -> None:
    run = await site.new_run(name="signing suite")
    await site.send(run, result("test_bad", "failed", message="boom", details="E   boom"), result("test_good"), log("hello\n"), finished(1))
    page = await site.open("/runs?state=failed", scripts=False)

    await page.get_by_role("link", name="signing suite").click()
    await expect(page.locator("#groups")).to_contain_text("test_good")
    await page.locator("#failures summary").click()
    await page.locator("#failures").get_by_role("link", name="Open the detail").click()

    await expect(page.locator(".trace")).to_contain_text("E   boom")
