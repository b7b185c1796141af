"""Finds a Chromium: the system's, else Playwright's own."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


async def launch(playwright: Playwright) -> Browser:
    """Return a running browser. Without one the test is skipped, and fails under CI."""
    executable = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if executable is None and not Path(playwright.chromium.executable_path).exists():
        if os.environ.get("CI"):
            pytest.fail("no Chromium: install one, or run `playwright install chromium`")
        pytest.skip("no Chromium")
    options: dict[str, Any] = {"executable_path": executable} if executable else {}
    # Chromium refuses its sandbox to root.
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return await playwright.chromium.launch(args=[*sandbox, "--disable-dev-shm-usage"], **options)
