"""A chapter in a real JupyterLab and a real browser: opened, run, solved by typing."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.notebook.test_notebooks import build, chapter
from tests.support.chromium import CHROMIUM, FLAGS, playwright

NAME = "01_echo"
FUNCTION = "accept_key"
RUN_TIME = 60_000  # milliseconds for a chapter, a kernel's start included
WINDOW = {"width": 1200, "height": 1000}

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(180),
    pytest.mark.needs("Playwright", "Chromium"),
]


@asynccontextmanager
async def lab(folder: Path) -> AsyncIterator[str]:
    """Run ``labserver lab`` on a folder's notebooks; yield the URL that it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "labserver", "lab", "--port", "0"),
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    reading = None
    try:
        async with asyncio.timeout(60):
            while True:
                line = (await process.stderr.readline()).decode()
                assert line, "JupyterLab ended"
                if found := re.search(
                    r"http://127\.0\.0\.1:\d+/lab/tree/00_start.ipynb\?token=\w+", line
                ):
                    break
        # JupyterLab goes on to log, and would block on a full pipe.
        reading = asyncio.create_task(process.stderr.read())
        yield found.group()
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        if reading is not None:
            await reading


def copied(name: str, folder: Path) -> None:
    """Copy a chapter, without outputs, to the folder of JupyterLab."""
    (folder / "notebooks" / "reference").mkdir(parents=True)
    for each in ("00_start", name):
        nbformat.write(chapter(each), folder / "notebooks" / f"{each}.ipynb")


class Chapter:
    """A chapter in a tab."""

    def __init__(self, tab: Any, name: str) -> None:
        self.tab = tab
        self.notebook = chapter(name)
        self.expect = playwright.expect

    async def open(self, url: str, name: str) -> None:
        await self.tab.goto(url.replace("00_start", name))
        await self.idle()

    async def idle(self) -> None:
        """Wait until the kernel has nothing to do."""
        status = self.tab.locator("#jp-main-statusbar")
        await self.expect(status).to_contain_text("| Idle", timeout=RUN_TIME)

    async def run_all(self) -> None:
        await self.tab.get_by_role("menuitem", name="Run", exact=True).click()
        await self.tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    async def cell(self, starts: str) -> Any:
        """Return the code cell whose source starts so, scrolled into view.

        JupyterLab only draws cells in view, so this scrolls with the mouse wheel.
        """
        sources = [each.source for each in self.notebook.cells]
        (place,) = [i for i, text in enumerate(sources) if text.startswith(starts)]
        cell = self.tab.locator(
            f'.jp-Notebook-cell[data-windowed-list-index="{place}"]'
        )
        await self.tab.locator(".jp-WindowedPanel-outer").hover()
        for _ in range(100):
            if await cell.count():
                await cell.scroll_into_view_if_needed()
                return cell
            drawn = await self.tab.locator(".jp-Notebook-cell").first.get_attribute(
                "data-windowed-list-index"
            )
            await self.tab.mouse.wheel(0, 400 if int(drawn or 0) < place else -400)
            await self.tab.wait_for_timeout(50)
        raise AssertionError(f"cell {place} never came into view")

    async def says(self, starts: str, text: str) -> None:
        """Wait until a cell's output has this text in it."""
        cell = await self.cell(starts)
        output = cell.locator(".jp-OutputArea-output").last
        await self.expect(output).to_contain_text(text, timeout=RUN_TIME)

    async def type(self, starts: str, lines: list[str]) -> None:
        """Replace a cell's source by typing."""
        editor = (await self.cell(starts)).locator(".cm-content")
        await editor.click()
        await self.tab.keyboard.press("ControlOrMeta+a")
        for number, line in enumerate(lines):
            if number:
                await self.tab.keyboard.press("Enter")
            # The editor indents lines after a colon by itself.
            await self.tab.keyboard.type(line.strip())

    async def run_here(self) -> None:
        """Run the cell with the cursor, and go to the next."""
        await self.tab.keyboard.press("Shift+Enter")

    async def picture(self, starts: str) -> int:
        """Return the width of the picture under a cell, in the browser's pixels."""
        image = (await self.cell(starts)).locator(".jp-OutputArea img")
        await self.expect(image).to_be_visible(timeout=RUN_TIME)
        width: int = await image.evaluate("image => image.naturalWidth")
        return width

    async def shoot(self, name: str) -> None:
        """Save a screenshot if the variable SHOTS names a folder."""
        if folder := os.environ.get("SHOTS"):
            await self.tab.screenshot(path=Path(folder) / f"lab-{name}.png")


async def test_chapter_is_run_and_its_exercise_solved_by_typing(
    tmp_path: Path,
) -> None:
    copied(NAME, tmp_path)
    solution, *_ = build.solutions(chapter(NAME))
    lines = solution.splitlines()
    async with lab(tmp_path) as url, playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            tab = await browser.new_page(viewport=WINDOW)
            tab.set_default_timeout(RUN_TIME)
            opened = Chapter(tab, NAME)
            await opened.open(url, NAME)
            await opened.run_all()
            await opened.says('await mistakes("echo")', "unguarded-parse")
            await opened.shoot("mistakes")
            await opened.says(f"check({FUNCTION})", "is not solved yet")
            # The hint and the solution are there, and closed.
            exercise = await opened.cell("## Exercise")
            await opened.expect(exercise.locator("summary")).to_have_count(2)
            await opened.expect(exercise.locator("details[open]")).to_have_count(0)
            await opened.shoot("exercise")
            assert await opened.picture("frame_map(") > 700
            await opened.shoot("picture")
            await opened.type("GUID =", lines)
            await opened.run_here()
            await opened.run_here()
            await opened.says(f"check({FUNCTION})", "Right")
            await opened.shoot("solved")
        finally:
            await browser.close()
