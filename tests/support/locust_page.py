"""Locust with its page, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from tests.conftest import SECRET

LOADTESTS = Path(__file__).parents[2] / "loadtests"


@asynccontextmanager
async def page_of_locust(
    folder: Path, *arguments: str
) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """Run Locust with its page; yields the page's address, and the process.

    Args:
        folder: Where results go.
        arguments: More of Locust's command line.

    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "locust", "-f", str(LOADTESTS)),
        *("--web-host", "127.0.0.1", "--web-port", "0", "--results", str(folder)),
        *arguments,
        cwd=LOADTESTS.parent,
        env={**os.environ, "LAB_SECRET": SECRET},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(40):
            while not (port := listening(process.pid)):  # noqa: ASYNC110 (a process)
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}", process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


def listening(process: int) -> int:
    """Return the port that a process listens on; 0 if there is none yet."""
    with contextlib.suppress(psutil.Error):
        for each in psutil.Process(process).net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN:
                return int(each.laddr.port)
    return 0
