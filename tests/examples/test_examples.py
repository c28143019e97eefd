"""Each program of examples/ runs, and hears what it said."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from labserver.contract.tokens import issue
from labserver.processes.ports import free_port
from labserver.server.server import LabServer
from tests.conftest import DEADLINE, SECRET, Running, eventually, peer
from tests.server.test_package import major
from tests.support.chromium import in_browser, launched

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TOKEN = issue(SECRET, "ann")
pytestmark = [pytest.mark.long, pytest.mark.timeout(90)]


@asynccontextmanager
async def started(
    *command: str, **environment: str
) -> AsyncIterator[asyncio.StreamReader]:
    """Run a program until the end of the block; yields its output."""
    kept = {name: each for name, each in os.environ.items() if name[:4] != "LAB_"}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**kept, "PYTHONUNBUFFERED": "1", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # curl is a child of its shell
        async with asyncio.timeout(DEADLINE):
            await process.communicate()


async def heard(output: asyncio.StreamReader, words: str) -> str:
    """Return the output up to the line that has some words."""
    said = ""
    async with asyncio.timeout(40):
        while words not in said:
            line = (await output.readline()).decode()
            assert line, said
            said += line
    return said


def test_every_example_is_in_the_readme_and_is_short() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    names = {path.name for path in EXAMPLES.iterdir()} - {"README.md", "__pycache__"}
    for name in names - {"lab-client.js"}:
        assert f"({name})" in readme
        assert len((EXAMPLES / name).read_text().splitlines()) <= 60


async def test_python_client_hears_itself(running: Running) -> None:
    async with running("resume") as server:
        command = (sys.executable, str(EXAMPLES / "python_client.py"))
        async with started(*command, URL=server.url, TOKEN=TOKEN) as output:
            assert "joined at 0" in await heard(output, "ann hello from Python")


@pytest.mark.needs("Node")
async def test_node_client_hears_itself(running: Running) -> None:
    flags = ["--experimental-websocket"] if major() < 22 else []
    async with running("resume") as server:
        command = ("node", *flags, str(EXAMPLES / "node_client.mjs"))
        async with started(*command, URL=server.url, TOKEN=TOKEN) as output:
            await heard(output, "ann hello from Node")


@pytest.mark.needs("curl")
async def test_curl_publishes_polls_and_follows_the_stream(running: Running) -> None:
    async with running("resume", sse_port=0) as server:
        assert server.web is not None
        command = ("sh", str(EXAMPLES / "curl.sh"))
        async with started(*command, URL=server.web.url, TOKEN=TOKEN) as output:
            said = await heard(output, "event: joined")
            assert '"type":"ack"' in said
            assert '"messages":[]' in said
            async with peer(server.url, token=TOKEN) as bob:
                await bob.send(type="publish", room="lobby", payload="and again")
                await heard(output, "and again")


@pytest.mark.parametrize(
    "command",
    [
        (sys.executable, "python_client.py"),
        pytest.param(("node", "node_client.mjs"), marks=pytest.mark.needs("Node")),
        pytest.param(("sh", "curl.sh"), marks=pytest.mark.needs("curl")),
    ],
    ids=lambda command: str(command[1]),
)
def test_missing_token_is_asked_for(command: tuple[str, str]) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("TOKEN", "URL")}
    ran = subprocess.run(
        command, cwd=EXAMPLES, env=environment, capture_output=True, timeout=30
    )
    assert (ran.returncode != 0, ran.stdout) == (True, b"")
    assert re.search("set TOKEN to|TOKEN: is not set", ran.stderr.decode())


@pytest.mark.needs("FastAPI")
async def test_application_gives_out_tokens_and_publishes(running: Running) -> None:
    port = free_port()
    async with running("resume") as server:
        command = (sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES))
        command += ("fastapi_app:app", "--port", str(port))
        async with started(*command, URL=server.url, LAB_SECRET=SECRET) as output:
            await heard(output, "Uvicorn running")
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as shop:
                given = (await shop.post("/token", params={"user": "bob"})).json()
                async with peer(server.url, token=given["token"]) as bob:
                    await bob.join("orders")
                    for _ in range(2):
                        answer = await shop.post("/orders/7", json={"what": "tea"})
                        assert answer.json() == {"seq": 1}
                    message = await bob.until("message")
                    assert message["payload"] == {"order": 7, "what": "tea"}
                    assert message["from"] == "the-shop"


@contextmanager
def pages(folder: Path) -> Iterator[str]:
    """Serve a folder at an origin of its own; yields its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(folder))
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class TestInBrowser:
    pytestmark = [each for each in in_browser if each.name != "asyncio"]

    @pytest.mark.parametrize("name", ["browser.html", "sse.html"])
    async def test_page_hears_itself(
        self, name: str, tmp_path: Path, running: Running
    ) -> None:
        shutil.copy(EXAMPLES / name, tmp_path)
        script = ROOT / "labserver" / "server" / "console" / "lab-client.js"
        shutil.copy(script, tmp_path)
        with pages(tmp_path) as origin:
            async with (
                running("resume", sse_port=0, origins=(origin,)) as server,
                launched() as browser,
            ):
                url = address(server, name)
                page = await browser.new_page()
                await page.goto(f"{origin}/{name}#token={TOKEN}&url={url}")

                async def hears() -> bool:
                    return "ann: hello from" in await page.inner_text("#log")

                await eventually(hears, within=40)


def address(server: LabServer, name: str) -> str:
    assert server.web is not None
    return server.url if name == "browser.html" else server.web.url
