"""Locust's own page tells what the verdict tells, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labserver.processes.cluster import running_replica
from tests.conftest import SECRET, eventually
from tests.load.test_loadtests import figures
from tests.support.chromium import launched, needs_browser
from tests.support.locust_page import page_of_locust

pytestmark = [pytest.mark.long, *needs_browser]
PICKED = {"FanoutPublisher", "FanoutSubscriber"}


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
            tmp_path,
            *("--host", server.url, "-u", "5", "-r", "5", "--no-pictures"),
            *("--lag-limit", "10000"),
        ) as (address, _),
        launched() as browser,
    ):
        page = await browser.new_page()
        await page.goto(address)
        await page.wait_for_selector("tbody tr:has(input)")
        every = await boxes(page)
        assert every.keys() > PICKED
        assert all(every.values())
        await page.fill("[name=host]", "ws://127.0.0.1:9")
        await page.click("button[type=submit]")
        await page.get_by_text("no server answers at ws://127.0.0.1:9").wait_for()
        await page.fill("[name=host]", server.url)
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
        async with page.expect_popup() as opened:
            await page.get_by_role("link", name="Reports").click()
        runs = await opened.value
        await runs.locator("tr", has_text="valid").get_by_role("link").click()
        await runs.get_by_role("heading", name="Load test: Fan-out").wait_for()
        await runs.close()  # behind another tab, a page draws nothing
        await page.get_by_role("button", name="New").click()
        await page.wait_for_selector("tbody tr:has(input)")

        async def restored() -> bool:
            return {k for k, v in (await boxes(page)).items() if v} == PICKED

        await eventually(restored)
