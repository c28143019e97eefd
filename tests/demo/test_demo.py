"""The demo: it ends by itself, tells the truth, and leaves no process behind."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from rich.console import Console

from labserver.demo.crowd import Crowd, Tally
from labserver.demo.router import find_haproxy
from labserver.demo.screen import Line, Screen
from labserver.demo.steps import STEPS
from labserver.demo.world import Place
from labserver.processes.cluster import running_replica
from tests.conftest import SECRET, eventually, peer

pytestmark = [pytest.mark.long, pytest.mark.timeout(90)]


@asynccontextmanager
async def started(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    own = {name: text for name, text in os.environ.items() if name[:4] != "LAB_"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "labserver", "demo", *arguments),
        env={**own, "LAB_SECRET": SECRET},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def line_with(process: asyncio.subprocess.Process, word: str) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while text := (await process.stdout.readline()).decode():
            if word in text:
                return text
    raise AssertionError(f"it ended without {word!r}")


def children(pid: int) -> set[int]:
    """Return the processes that a process started."""
    with open(f"/proc/{pid}/task/{pid}/children") as found:
        return set(map(int, found.read().split()))


def alive() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


async def test_every_step_of_the_tour_loses_nothing() -> None:
    async with started("--seconds", "0.5", "--clients", "12") as process:
        out, _ = await process.communicate()
    text = out.decode()
    assert process.returncode == 0, text
    assert "Nothing was lost" in text
    for number, step in enumerate(STEPS, 1):
        assert re.search(rf"^{number} {re.escape(step.title)} .* 0$", text, re.M), text
    totals = text.partition("connected  published")[2].splitlines()[1].split()
    assert totals[:3] == ["14", "of", "14"]
    assert totals[-4:] == ["0", "0", "0", "0"]  # told, lost, duplicated, reordered
    assert int(totals[5]) >= 12  # all came back from the rolling restart
    assert ("behind HAProxy" in text) is bool(find_haproxy())


async def test_without_a_router_the_clients_take_turns() -> None:
    flags = ("--no-router", "--steps", "kill,restart", "--seconds", "0.5")
    async with started(*flags, "--clients", "6") as process:
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert "HAProxy is not used" in out.decode()
    assert "Rolling" not in out.decode()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGHUP])
async def test_keep_leaves_it_up_until_a_signal_which_leaves_nothing(
    how: signal.Signals,
) -> None:
    flags = ("--keep", "--steps", "fine", "--seconds", "0.5", "--clients", "4")
    async with started(*flags) as process:
        assert process.stdout is not None
        url = re.findall(r"http://\S+", await line_with(process, "still running"))[0]
        token = (await process.stdout.readline()).decode().strip()
        async with peer(url.replace("http", "ws", 1), token=token) as ann:
            await ann.join("kept")
        mine = children(process.pid)
        assert len(mine) >= 4
        process.send_signal(how)
        async with asyncio.timeout(30):
            assert await process.wait() == 0
        assert not mine & alive()


async def test_ctrl_c_in_the_middle_ends_it_with_130() -> None:
    async with started("--seconds", "60", "--clients", "4") as process:
        await line_with(process, "1/6")
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(30):
            out, _ = await process.communicate()
        assert process.returncode == 130
        assert b"Traceback" not in out


async def test_unknown_step_is_one_line_and_status_2() -> None:
    async with started("--steps", "kill,earthquake") as process:
        out, _ = await process.communicate()
    assert process.returncode == 2
    assert len(out.splitlines()) == 1
    assert b"'earthquake'" in out


async def test_strangers_payload_ends_no_clients_listening() -> None:
    async with (
        running_replica(secret=SECRET) as replica,
        Crowd(lambda: replica.url, SECRET) as crowd,
    ):
        member = await crowd.enter("ann")
        for payload in ("hi", None, {"at": "noon"}, ["at"]):
            await member.client.publish(member.room, payload)
        await crowd.say(member)
        await eventually(lambda: len(crowd.latencies) == 1)


async def test_a_loss_is_seen_even_at_the_very_end() -> None:
    """The audit can fail: it counts a message that one client never got."""
    async with (
        running_replica(secret=SECRET) as replica,
        Crowd(lambda: replica.url, SECRET) as crowd,
    ):
        for name in ("ann", "bob"):
            member = await crowd.enter(name)
        await crowd.say(member)
        await eventually(lambda: all(each.seq == 1 for each in crowd.members))
        member.oracle.saw = lambda message: None  # type: ignore[method-assign]
        await crowd.say(member)
        await eventually(lambda: crowd.members[0].seq == 2)
        assert crowd.tally().lost == 0
        await crowd.catch_up(member, 0.1)
        assert crowd.tally(final=True).lost == 1
        assert not crowd.tally(final=True).clean


def test_screen_fits_80_columns() -> None:
    page = io.StringIO()
    console = Console(file=page, width=80, force_terminal=True, color_system=None)
    with Screen(console, "3 replicas") as screen:
        for step in STEPS:
            line = Line(step, 1_234_567, 1.5, 12.345, 1234, 12)
            screen.begin(line, len(STEPS))
        tally = Tally(1000, 1000, 123_456, 12_345_678, 12_345, 1234, 12, 12, 12)
        screen.show([Place("replica-1", 1, None, "not ready", 999, 9_999_999)], tally)
        screen.summary(tally)
    text = page.getvalue()
    assert "…" not in text
    for word in ("Rolling restart", "duplicated", "reordered", "12,345,678"):
        assert word in text
