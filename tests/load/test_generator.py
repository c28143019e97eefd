"""The generator's own delays are never the server's, and never hidden."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from labserver.processes.cluster import Replica, running_replica
from tests.conftest import eventually
from tests.load.test_loadtests import SECRET, figures, printed, reached, started

SUPPORT = Path(__file__).parents[1] / "support"


@asynccontextmanager
async def onlooker(server: Replica, room: Path) -> AsyncIterator[dict[str, Any]]:
    """Watch a load test from another process; yields what it has seen in the end."""
    await eventually(room.exists, within=30)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(SUPPORT / "onlooker.py")),
        *(server.url.rpartition(":")[2], await asyncio.to_thread(room.read_text), "10"),
        env={**os.environ, "LAB_TOKEN": server.token()},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    seen: dict[str, Any] = {}
    try:
        yield seen
        out, _ = await process.communicate(b"")  # its end of file
        seen.update(json.loads(out))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def workers(master: asyncio.subprocess.Process) -> list[psutil.Process]:
    return sorted(psutil.Process(master.pid).children(), key=lambda each: each.pid)


@pytest.mark.timeout(90)
async def test_stall_of_a_reader_is_not_the_servers(tmp_path: Path) -> None:
    """A reader that was stopped for a second reported a p99 of 754 ms, as valid."""
    room, results = tmp_path / "room", tmp_path / "results"
    async with (
        running_replica("resume", "--without", "broker", secret=SECRET) as server,
        started(
            *("--only-summary", "--host", server.url, "--processes", "2"),
            *("-u", "40", "-r", "40", "-t", "60s", "--publish-rate", "20"),
            *("--results", str(results), "--no-pictures"),
            *("--dialect", f"{SUPPORT / 'told_room.py'}:ToldRoom"),
            *("FanoutPublisher", "FanoutSubscriber"),
            LAB_SECRET=SECRET,
            LAB_TEST_ROOM=str(room),
        ) as master,
    ):
        said = asyncio.create_task(master.communicate())
        async with onlooker(server, room) as seen:
            await eventually(reached(server.url, deliveries_total=2000), within=30)
            stopped = workers(master)[-1]
            stopped.send_signal(signal.SIGSTOP)
            await asyncio.sleep(1)
            stopped.send_signal(signal.SIGCONT)
            await eventually(reached(server.url, deliveries_total=6000), within=30)
        os.killpg(master.pid, signal.SIGINT)
        out = "".join(each.decode() for each in await said)
    found = figures(results)
    still = [each["longest"] for each in found["generator"]["each"]]
    assert max(still) > 0.9, out
    # The worker may have been the publisher's, which then sends late, and says so.
    latency = found["latency_from_due_us"]["fanout/subscribers"]
    if seen["due p99"] < 500:
        assert found["unmeasured"]["fanout"] > 0
        assert latency["p99"] / 1000 < max(2 * seen["due p99"], 500), (out, seen)
    else:
        assert latency["own_share"]["p99"] > 0.5
    assert found["exit_code"] == 4, out


STALLED = """
import time, types
from loadtests import fanout
from labserver.load.dialects import Delivery, Stamp
from labserver.load.figures.record import Record
from labserver.load.run.life import RUN
from labserver.load.run.stalls import Stalls

now = time.monotonic_ns()
second, milli = 10**9, 10**6
RUN.record = Record()
RUN.stalls = stalls = Stalls(RUN.record)
stalls.due = now - second
if {ticked}:
    stalls.tick(now)

def read(sent, arrived, lag, emptied, before):
    user = fanout.FanoutSubscriber.__new__(fanout.FanoutSubscriber)
    user.received = 0
    user.record, user.latency = Record(), Record().histogram("fanout/subscribers")
    user.socket = types.SimpleNamespace(
        arrived=arrived, lag=lag, emptied=emptied, before=before
    )
    stamps = [Stamp(each, each) for each in sent]
    user.handle = lambda stamp: user.delivered(Delivery(0, stamp), 1)
    user.took(stamps)
    print(user.latency.count, user.record.unmeasured["fanout"],
        user.record.lag.highest // 100_000)

half = now - second // 2
read([half], now - milli, milli, True, half)  # a message that is alone
read([half, now - 2 * milli], now - milli, milli, True, half)  # joined by the kernel
read([half, half], now - milli, milli, False, half)  # there is more in the socket
read([half, half], now - milli, None, True, half)  # a kernel that says nothing
old = now - 5 * second
read([old - milli, old - milli], old, 5 * second, True, old - second)  # before it
"""


@pytest.mark.parametrize("ticked", [True, False])
async def test_what_arrived_in_a_stall_is_not_measured(ticked: bool) -> None:
    """The kernel joins the segments of a socket, and keeps the newest's time only."""
    said = (await printed(STALLED.format(ticked=ticked))).splitlines()
    assert [each.rsplit(" ", 1)[0] for each in said] == [
        "1 0",
        "1 1",
        "0 2",
        "0 2",
        "2 0",
    ]
    assert [each.rsplit(" ", 1)[1] for each in said[1:3]] == ["5", "5"]


SAVED_TIME = """
from labserver.load.run.stalls import Theft, stolen, waiting
waited, theft = Theft().shares()
print(0 <= waited <= 1, 0 <= theft <= 1, waiting() >= 0, len(stolen()))
"""


async def test_theft_of_a_processor_is_a_share() -> None:
    assert (await printed(SAVED_TIME)).split() == ["True", "True", "True", "2"]
