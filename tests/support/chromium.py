"""A real browser, headless: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

try:
    from playwright import async_api as playwright
except ImportError:
    playwright = None

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
needs_browser = [
    pytest.mark.timeout(90),
    pytest.mark.needs("Playwright", "Chromium"),
]
# For a class whose tests share the browser of their module.
in_browser = [*needs_browser, pytest.mark.asyncio(loop_scope="module")]


@asynccontextmanager
async def launched() -> AsyncIterator[Any]:
    """Run a browser; yields Playwright's object for it."""
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


def http_of(url: str) -> str:
    return url.replace("ws://", "http://", 1)
