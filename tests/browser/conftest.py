"""A real server, a real PostgreSQL and a real browser."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import count
from typing import Any

import httpx
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from probity.identity.passwords import Passwords
from probity.identity.service import IdentityService
from probity.kernel.clock import SystemClock
from probity.kernel.db import Database
from probity.kernel.secret import Secret
from tests.browser import chromium
from tests.browser.cuttable import Line, line_to

EMAIL, PASSWORD = "ada@example.org", "A long and lovely password 1"
WIDE, NARROW = (1440, 900), (360, 740)

# What a page shows may take a while on a machine that runs everything at once; what it must not show is asserted without waiting.
expect.set_options(timeout=20_000)

_ids = count(1)


class Site:
    """The server as a person and as a program see it. Everything that a page complains about is kept in `complaints`."""

    def __init__(self, line: Line, browser: Browser, api: httpx.AsyncClient) -> None:
        self.line = line
        self.api = api
        self.complaints: list[str] = []
        self._browser = browser
        self._session: Any = None

    async def open(
        self, path: str, *, theme: str = "light", size: tuple[int, int] = WIDE, signed_in: bool = True, scripts: bool = True
    ) -> Page:
        """Open a page in a browser window of its own; the first one signs in by the form."""
        context = await self._browser.new_context(
            storage_state=self._session if signed_in else None,
            base_url=self.line.address,
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if theme == "dark" else "light",
            reduced_motion="reduce",
            java_script_enabled=scripts,
        )
        page = await context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: self.complaints.append(f"{page.url}: {error}"))
        page.on("console", lambda message: self._listen(page, message))
        if signed_in and self._session is None:
            await page.goto("/sign-in")
            await sign_in(page)
            await page.wait_for_url("**/runs")
            self._session = await context.storage_state()
        await page.goto(path)
        return page

    def _listen(self, page: Page, message: Any) -> None:
        # A refused page and a cut line are what some tests are about; the browser reports them as errors of the network.
        if message.type == "error" and "Failed to load resource" not in message.text and "net::ERR" not in message.text:
            self.complaints.append(f"{page.url}: {message.text}")

    async def new_run(self, **fields: Any) -> dict[str, Any]:
        reply = await self.api.post("/api/v1/runs", json={"name": "itsdangerous test suite"} | fields)
        reply.raise_for_status()
        run: dict[str, Any] = reply.json()
        return run

    async def send(self, run: dict[str, Any], *events: dict[str, Any], agent: dict[str, str] | None = None) -> int:
        """Ingest events as a reporter would, or as an agent with these credentials; return the sequence number that the run has reached."""
        moment = datetime.now(UTC).isoformat()
        numbered = [{"id": f"e{next(_ids)}", "at": moment} | event for event in events]
        reply = await self.api.post(f"/api/v1/runs/{run['uuid']}/events", json={"events": numbered}, headers=agent)
        reply.raise_for_status()
        seq: int = reply.json()["last_seq"]
        return seq


async def sign_in(page: Page, password: str = PASSWORD) -> None:
    await page.get_by_label("Email").fill(EMAIL)
    await page.get_by_label("Password", exact=True).fill(password)
    await page.keyboard.press("Enter")


def result(name: str, outcome: str = "passed", *, suite: str = "tests.test_signer", **fields: Any) -> dict[str, Any]:
    return {
        "type": "result",
        "case": f"{suite}::{name}",
        "name": name,
        "suite": suite,
        "outcome": outcome,
        "duration_ms": 12.5,
    } | fields


def log(text: str, stream: str = "stdout") -> dict[str, Any]:
    return {"type": "log", "stream": stream, "text": text}


def finished(exit_code: int = 0) -> dict[str, Any]:
    return {"type": "finished", "exit_code": exit_code}


@pytest_asyncio.fixture
async def site(db: Database, live_server: str) -> AsyncIterator[Site]:
    """A server with one administrator, `EMAIL`; the test fails when a page complained of anything."""
    passwords = Passwords()
    try:
        await IdentityService(db, SystemClock(), passwords).bootstrap(EMAIL, Secret(PASSWORD))
    finally:
        passwords.close()
    async with (
        line_to(live_server) as line,
        async_playwright() as playwright,
        httpx.AsyncClient(base_url=live_server, timeout=30) as api,
    ):
        browser = await chromium.launch(playwright)
        reply = await api.post("/api/v1/auth/login", json={"email": EMAIL, "password": PASSWORD})
        reply.raise_for_status()
        api.cookies.clear()
        api.headers["authorization"] = f"Bearer {reply.json()['token']}"
        site = Site(line, browser, api)
        yield site
        await browser.close()
    assert site.complaints == []
