"""A server without file descriptors says so, on either loop, and recovers."""

from __future__ import annotations

import asyncio
import errno
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from labserver.server import sockets
from tests.conftest import eventually

DESCRIPTORS = 64
SERVE = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS}, {DESCRIPTORS}))
if sys.argv.pop() == "asyncio":
    sys.modules["uvloop"] = None  # as where there is none
from labserver.cli import main
main()
"""


async def get(port: int, path: str) -> bytes:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(f"GET {path} HTTP/1.0\r\nHost: a\r\n\r\n".encode())
            return await reader.readline()
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()


def test_complaint_comes_once_a_second(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(sockets, "time", clock)
    loop = asyncio.new_event_loop()
    complain = sockets.Complaints()
    for _ in range(3):
        for _ in range(100):  # attempts to accept in one turn of the loop
            complain(loop, {"exception": OSError(errno.EMFILE, "Too many open files")})
        now += sockets.COMPLAINT_INTERVAL
    loop.close()
    assert len(caplog.records) == 3


@pytest.mark.timeout(60)
@pytest.mark.parametrize("door", ["WebSocket", "SSE"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_server_without_descriptors_complains_briefly_and_recovers(
    loop: str, door: str, tmp_path: Path
) -> None:
    errors = tmp_path / "errors"
    flags = ("serve", "--stage", "rooms", "--port", "0", "--sse-port", "0")
    with ExitStack() as stack:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SERVE, *flags, loop),
            stdout=asyncio.subprocess.PIPE,
            stderr=stack.enter_context(errors.open("wb")),
        )
        try:
            assert process.stdout is not None
            lines = [(await process.stdout.readline()).decode() for _ in range(2)]
            ports = [
                int(line.split("/")[2].rpartition(":")[2].split()[0]) for line in lines
            ]
            port = ports[door == "SSE"]
            writers = []
            for _ in range(2 * DESCRIPTORS):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writers.append(writer)
                stack.callback(writer.transport.abort)
            if loop == "asyncio":  # uvloop accepts with a spare descriptor and hangs up
                said = "no connection can be accepted: Too many open files"
                await eventually(lambda: errors.read_text().count(said) >= 3)
            assert errors.stat().st_size < 10_000
            for writer in writers:
                writer.transport.abort()

            async def healthy() -> bool:
                return b" 200 " in await get(port, "/healthz")

            await eventually(healthy)
        finally:
            process.kill()
            await process.communicate()
