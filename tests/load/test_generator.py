"""The generator's own delays are never the server's, and never hidden."""

from __future__ import annotations

import asyncio
import csv
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.asyncio.server import ServerConnection, serve

from labserver.processes.cluster import Replica, running_replica
from tests.conftest import eventually
from tests.load.test_figures import Tally, heard, judge, merged
from tests.load.test_loadtests import (
    SECRET,
    LossyServer,
    figures,
    locust,
    printed,
    reached,
    started,
)

Generator = importlib.import_module("labserver.load.figures.generator").Generator
Record = importlib.import_module("labserver.load.figures.record").Record
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


@pytest.mark.long
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
from labserver.load.figures.everybody import Everybody
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
    user.received, user.sampled, user.everybody = 0, 100, Everybody()
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


OVER = """
import time
from labserver.load.figures.record import Record
from labserver.load.run.stalls import Stalls

now = time.monotonic_ns()
second, milli = 10**9, 10**6
stalls = Stalls(Record())
stalls.due = now - 2 * second
stalls.tick(now - second)  # the stall has ended
print(stalls.around(now - 3 * second, now - second) is not None)
stalls.tick(now - second + 10 * milli)
stalls.due = time.monotonic_ns()  # it has ticked in time since
print(stalls.around(now - 3 * second, time.monotonic_ns()))
"""


async def test_stall_that_is_over_delays_nothing_that_arrives_later() -> None:
    """A room that is silent from before a stall has nothing to read at its end.

    What is published then, a second later and in a burst, was told to have waited in
    the reader since the stall, so every run with a paused Redis was INVALID.
    """
    said = (await printed(OVER)).split()
    assert said == ["True", "None"]


SAVED_TIME = """
from labserver.load.run.stalls import Theft, stolen, waiting
waited, theft = Theft().shares()
print(0 <= waited <= 1, 0 <= theft <= 1, waiting() >= 0, len(stolen()))
"""


async def test_theft_of_a_processor_is_a_share() -> None:
    assert (await printed(SAVED_TIME)).split() == ["True", "True", "True", "2"]


# Several processes, several machines


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


async def distributed(
    url: str, results: Path, until: Any, *prefixes: tuple[str, ...], **variables: str
) -> tuple[int | None, str]:
    """Run a fan-out with a worker for each prefix; return exit status and output."""
    port = free_port()
    async with AsyncExitStack() as stack:
        run = stack.enter_async_context
        master = await run(
            started(
                *("--only-summary", "--master", "--master-bind-host", "127.0.0.1"),
                *("--master-bind-port", port, "--expect-workers", str(len(prefixes))),
                *("--host", url, "-u", "20", "-r", "20", "-t", "40s"),
                *("--publish-rate", "20", "--results", str(results), "--no-pictures"),
                *("--lag-limit", "10000", "FanoutPublisher", "FanoutSubscriber"),
                **variables,
            )
        )
        for prefix in prefixes:
            worker = ("--worker", "--master-port", port)
            await run(started(*worker, prefix=prefix, **variables))
        said = asyncio.create_task(master.communicate())
        await eventually(until, within=40)
        master.send_signal(signal.SIGINT)
        out, err = await said
    return master.returncode, (out + err).decode()


def rows(results: Path) -> list[dict[str, str]]:
    (table,) = results.glob("*/timeline.csv")
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
@pytest.mark.timeout(90)
async def test_timeline_of_workers_is_that_of_the_run(tmp_path: Path) -> None:
    """Workers without -t cut rows of six seconds, which the master called one."""
    async with running_replica(
        "resume", "--without", "broker", secret=SECRET
    ) as server:
        until = reached(server.url, messages_published_total=100)
        nothing: tuple[str, ...] = ()
        _, out = await distributed(
            server.url, tmp_path, until, nothing, nothing, LAB_SECRET=SECRET
        )
    found, table = figures(tmp_path), rows(tmp_path)
    assert found["delivered"] == found["expected"] > 0, out
    assert [float(each["seconds"]) for each in table] == [
        number + 1 for number in range(len(table))
    ]
    published = [int(each["published"]) for each in table]
    assert sum(published) == found["published"]["fanout"], out
    assert sum(int(each["delivered"]) for each in table) == found["delivered"], out
    # Nobody published before all 20 members were there, and nobody paused afterwards.
    first = next(number for number, each in enumerate(published) if each)
    assert int(table[first]["users"]) == 20, table
    assert all(published[first:-1]), published
    # Each process says what it did, and the publisher has one of its own.
    assert sorted(each["users"] for each in found["generator"]["each"]) == [1, 19]


@pytest.mark.long
@pytest.mark.timeout(90)
async def test_publisher_that_hears_of_the_end_late_loses_nothing(
    tmp_path: Path,
) -> None:
    """The other worker had gone when the last messages came, and called them lost."""
    async with (
        running_replica("resume", "--without", "broker", secret=SECRET) as server,
        started(
            *("--only-summary", "--host", server.url, "--processes", "2"),
            *("-u", "10", "-r", "10", "-t", "60s", "--publish-rate", "20"),
            *("--results", str(tmp_path), "--no-pictures"),
            *("FanoutPublisher", "FanoutSubscriber"),
            LAB_SECRET=SECRET,
        ) as master,
    ):
        said = asyncio.create_task(master.communicate())
        await eventually(reached(server.url, deliveries_total=500), within=30)
        publisher = workers(master)[0]
        publisher.send_signal(signal.SIGSTOP)
        os.kill(master.pid, signal.SIGINT)
        await asyncio.sleep(1.5)  # longer than the other worker waits in silence
        publisher.send_signal(signal.SIGCONT)
        out = "".join(each.decode() for each in await said)
    tally = figures(tmp_path)["completeness"]["fanout/subscribers"]
    assert tally["lost"] == 0, out
    assert tally["delivered"] == tally["expected"] > 0, out


OTHER_CLOCK = ("unshare", "--time", "--monotonic", "1000")


def may_change_clocks() -> bool:
    if not shutil.which("unshare"):
        return False
    tried = subprocess.run([*OTHER_CLOCK, "true"], capture_output=True, timeout=10)
    return tried.returncode == 0


@pytest.mark.skipif(
    not may_change_clocks(), reason="needs unshare, and the right to it"
)
@pytest.mark.long
@pytest.mark.timeout(90)
async def test_workers_whose_clocks_differ_measure_with_one(tmp_path: Path) -> None:
    """They reported a p50 of 0.00 ms, as valid: a negative latency counted as none."""
    async with running_replica(
        "resume", "--without", "broker", secret=SECRET
    ) as server:
        until = reached(server.url, messages_published_total=100)
        code, out = await distributed(
            server.url, tmp_path, until, (), OTHER_CLOCK, LAB_SECRET=SECRET
        )
    found = figures(tmp_path)
    p50 = found["latency_from_due_us"]["fanout/subscribers"]["p50"]
    unsure = found["generator"]["uncertainty_us"]
    assert 0 < unsure < 1_000_000, out
    ahead = [each["ahead"] for each in found["generator"]["each"]]
    assert sorted(map(str, ahead))[1] == "None"
    assert [each for each in ahead if each] == [pytest.approx(1000, abs=1)]
    assert 0 < p50 < 1_000_000, out
    assert code == (0 if unsure <= p50 else 4), out
    assert "corrected to" in out
    delivered = [int(each["delivered"]) for each in rows(tmp_path)]
    assert sum(delivered) == found["delivered"]


def test_clock_that_is_known_less_well_than_the_latency_is_refused() -> None:
    record = heard(1, 2, last=2)
    record.histogram("s/members").record(900)
    for unsure in (0.0006, 0.0005):
        record.generators.append(Generator(name="a", ahead=1.0, unsure=unsure))
    verdict = judge(merged([record]))
    assert verdict.code == 4
    assert "compared to 1.10 ms only, and the measured p50 is 0.90 ms" in str(verdict)
    record.generators[0].unsure = 0.0001
    assert judge(merged([record])).code == 0


def test_negative_latency_is_an_error_and_no_zero() -> None:
    record = heard(1, 2, last=2)
    record.histogram("s/members").record(-1)
    assert record.histogram("s/members").count == 0
    verdict = judge(
        merged([Record.from_json(json.loads(json.dumps(record.as_json())))])
    )
    assert verdict.code == 4
    assert "arrived before they were due" in str(verdict)


def test_process_that_has_no_processor_makes_a_run_invalid() -> None:
    record = heard(1, 2, last=2)
    record.generators.append(Generator(name="a", cpu=0.3, waited=0.68))
    assert "waited for one for 68%" in str(judge(merged([record])))
    record.generators[0].waited = 0.3
    assert judge(merged([record])).code == 0


CLOCK = """
from labserver.load.run.clock import Clock, identity
clock = Clock()
clock.answered(1000, 501_100, "another", 1200)
print(clock.offset, clock.unsure, clock.same)
clock.answered(2000, 502_010, "another", 2020)
print(clock.offset, clock.unsure, clock.same)
clock.answered(10**9, 0, "another", 2 * 10**9)  # a slow answer changes nothing
print(clock.offset, clock.unsure - int(1e-4 * (2 * 10**9 - 2020)), clock.same)
clock.answered(3000, 3001, identity(), 3010)
print(clock.offset, clock.unsure, clock.same)
"""


async def test_fastest_round_trip_compares_the_clocks() -> None:
    assert (await printed(CLOCK)).splitlines() == [
        "500000 100 False",
        "500000 10 False",
        "500000 10 False",
        "0 0 True",
    ]


# What was asked for


@pytest.mark.long
@pytest.mark.timeout(90)
async def test_outage_does_not_shrink_what_is_expected(tmp_path: Path) -> None:
    """4,040 of 4,040 with a p99 of 14 ms was a server that had been killed."""
    async with running_replica(
        "resume", "--without", "broker", secret=SECRET
    ) as server:
        half = reached(server.url, messages_published_total=60)
        async with started(
            *("--only-summary", "--host", server.url, "-u", "10", "-r", "10"),
            *("-t", "8s", "--publish-rate", "20", "--results", str(tmp_path)),
            *("--no-pictures", "FanoutPublisher", "FanoutSubscriber"),
            LAB_SECRET=SECRET,
        ) as master:
            said = asyncio.create_task(master.communicate())
            await eventually(half, within=30)
            await server.stop(signal.SIGKILL)
            out = b"".join(await said).decode()
    found = figures(tmp_path)
    tally = found["completeness"]["fanout/subscribers"]
    # Publishers are due from when all have joined; that was at least 60 messages ago.
    assert tally["expected"] > tally["delivered"] + 10 * 20, out
    assert tally["unpublished"] > 0
    assert (
        sum(tally[each] for each in ("delivered", "lost", "unpublished"))
        == (tally["expected"])
    )
    assert master.returncode == 1, out
    assert "were due, never published" in out and "that arrived" in out


@pytest.mark.long
@pytest.mark.timeout(60)
async def test_users_that_were_asked_for_and_never_came_are_shown(
    tmp_path: Path,
) -> None:
    async with running_replica(
        "resume", "--without", "broker", secret=SECRET
    ) as server:
        code, out, _ = await locust(
            *("--host", server.url, "-u", "500", "-r", "1", "-t", "20s"),
            *("--results", str(tmp_path), "--no-pictures", "--publish-rate", "100"),
            *("FanoutPublisher", "FanoutSubscriber"),
            until=reached(server.url, connections=3, messages_published_total=20),
            LAB_SECRET=SECRET,
        )
    found = figures(tmp_path)["users"]
    assert 3 <= found["joined"] < found["asked"] == 500
    assert code == 4
    assert "of 500 users that were asked for" in out


@pytest.mark.long
@pytest.mark.timeout(60)
async def test_users_that_the_server_leaves_waiting_fail_a_run(tmp_path: Path) -> None:
    """It answers no handshake once it has some members."""
    server = LossyServer()

    async def silent(connection: ServerConnection, request: Any) -> None:
        if len(server.members) > 1:
            await asyncio.sleep(60)

    async def published() -> bool:
        return server.seq > 10

    async with serve(
        *(server.converse, "127.0.0.1", 0), compression=None, process_request=silent
    ) as listening:
        port = listening.sockets[0].getsockname()[1]
        code, out, _ = await locust(
            *("--host", f"ws://127.0.0.1:{port}", "-u", "5", "-r", "1", "-t", "40s"),
            *("--results", str(tmp_path), "--no-pictures"),
            *("FanoutPublisher", "FanoutSubscriber"),
            until=published,
            LAB_TOKEN="any",
        )
    assert code == 1
    absent = 5 - len(server.members)
    assert f"{absent} user(s) never joined in fanout/subscribers" in out, out
    assert f"{5 - absent} of 5 that were asked for joined" in out, out


def test_due_message_that_got_no_number_is_expected_by_each_member() -> None:
    record = heard(1, 2, last=2)
    record.due["r"] = 5
    whole = merged([record])
    assert whole.tallies["s/members"] == Tally(5, 2, unpublished=3)
    assert "3 were due, never published in s/members" in str(judge(whole))
