"""Locust's own page tells what the verdict tells, in a real browser."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from labserver.processes.cluster import running_replica
from tests.conftest import eventually
from tests.load.test_load_scenarios import listening
from tests.load.test_loadtests import LOADTESTS, SECRET, figures
from tests.support.chromium import launched, needs_browser

pytestmark = [pytest.mark.long, *needs_browser]
PICKED = {"FanoutPublisher", "FanoutSubscriber"}


@asynccontextmanager
async def page_of_locust(*arguments: str) -> AsyncIterator[str]:
    """Run Locust with its page; yields the page's address."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "locust", "-f", str(LOADTESTS)),
        *("--web-host", "127.0.0.1", "--web-port", "0", *arguments),
        cwd=LOADTESTS.parent,
        env={**os.environ, "LAB_SECRET": SECRET},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(40):
            while not (port := listening(process.pid)):  # noqa: ASYNC110 (a process)
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        await process.wait()


async def boxes(page: Any) -> dict[str, bool]:
    """Return whether each class of the form is picked."""
    found: dict[str, bool] = await page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('tbody tr:has(input)')].map("
        "row => [row.cells[1].textContent, row.querySelector('input').checked]))"
    )
    return found


async def test_page_shows_verdict_completeness_and_lag_and_keeps_the_picked_classes(
    tmp_path: Path,
) -> None:
    async with (
        running_replica("resume", "--without", "broker", secret=SECRET) as server,
        page_of_locust(
            *("--host", server.url, "-u", "5", "-r", "5", "--no-pictures"),
            *("--results", str(tmp_path), "--lag-limit", "10000"),
        ) as address,
        launched() as browser,
    ):
        page = await browser.new_page()
        await page.goto(address)
        await page.wait_for_selector("tbody tr:has(input)")
        every = await boxes(page)
        assert every.keys() > PICKED
        assert all(every.values())
        for name in every.keys() - PICKED:
            await page.click(f"tr:has(td:text-is('{name}')) td:first-child")
        await page.click("button[type=submit]")
        bar = page.locator("#lab-verdict")
        await bar.filter(has_text="VALID so far: everything arrived").wait_for()
        assert "read late p99" in await bar.inner_text()
        await page.get_by_role("tab", name="Verdict").click()
        row = page.locator("tbody tr", has_text="fanout/subscribers")
        await row.wait_for()
        assert " of " in await row.locator("td").nth(1).inner_text()
        await page.get_by_role("button", name="Stop").click()
        await bar.filter(has_text="VALID: everything arrived").wait_for()
        assert figures(tmp_path)["verdict"] == "VALID"
        await page.get_by_role("button", name="New").click()
        await page.wait_for_selector("tbody tr:has(input)")

        async def restored() -> bool:
            return {k for k, v in (await boxes(page)).items() if v} == PICKED

        await eventually(restored)
