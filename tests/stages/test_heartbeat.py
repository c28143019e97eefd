"""The wheel, turned by hand; and a server that is late itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from labserver.contract.closing import Close
from labserver.judge.world import stalled
from labserver.server.connection import LabConnection
from labserver.server.metrics import Metrics
from labserver.stages.heartbeat import SLOTS, WheelHeartbeat
from tests.conftest import Running, eventually, peer

pytestmark = pytest.mark.loops("uvloop", "asyncio")


class FakePeer:
    """A connection whose clock is the number of steps of the wheel."""

    def __init__(self, clock: list[float], answers: bool = True) -> None:
        self.clock = clock
        self.answers = answers
        self.takes_bytes = False
        self.seen = 0.0
        self.pinged = 0.0
        self.pings: list[float] = []
        self.gone_at: float | None = None

    def send_ping(self) -> None:
        self.pinged = self.clock[0]
        self.pings.append(self.pinged)
        if self.answers:
            self.seen = self.clock[0] + 0.5

    def reads(self) -> bool:
        return self.takes_bytes

    def cut(self, close: Close) -> None:
        assert close.code == 4408
        self.gone_at = self.clock[0]


class Wheel:
    """A heartbeat whose clock the test moves."""

    def __init__(self) -> None:
        self.clock = [1.0]
        self.heartbeat = WheelHeartbeat(interval=1.0)
        self.heartbeat.metrics = self.metrics = Metrics()

    def add(self, answers: bool = True) -> FakePeer:
        fake = FakePeer(self.clock, answers)
        fake.seen = self.clock[0]
        self.heartbeat.watch(fake)
        return fake

    def turn(self, steps: int) -> None:
        for _ in range(steps):
            self.clock[0] += 1
            self.heartbeat.step()


@pytest.mark.parametrize("dies_after", range(0, SLOTS, 7))
def test_dead_peer_is_cut_within_two_intervals(dies_after: int) -> None:
    wheel = Wheel()
    peers = [wheel.add() for _ in range(50)]
    wheel.turn(SLOTS + dies_after)
    died_at = wheel.clock[0]
    for fake in peers:
        fake.answers = False
        fake.seen = died_at
    wheel.turn(2 * SLOTS)
    assert all(fake.gone_at is not None for fake in peers)
    assert wheel.metrics.dead == 50
    wheel.turn(SLOTS)
    assert wheel.metrics.dead == 50  # each peer counts once


def test_live_peers_are_pinged_once_an_interval_and_never_cut() -> None:
    wheel = Wheel()
    peers = [wheel.add() for _ in range(50)]
    wheel.turn(10 * SLOTS)
    assert all(len(fake.pings) == 10 for fake in peers)
    assert all(fake.gone_at is None for fake in peers)


def test_pings_are_spread_over_the_interval() -> None:
    wheel = Wheel()
    peers = [wheel.add() for _ in range(64 * 20)]
    wheel.turn(SLOTS)
    moments = [fake.pings[0] for fake in peers]
    busiest = max(moments.count(moment) for moment in set(moments))
    assert len(set(moments)) > SLOTS * 0.9
    assert busiest < 60  # 20 on average; all 1280 in one would be a burst


def test_any_frame_counts_as_life() -> None:
    wheel = Wheel()
    talker = wheel.add(answers=False)
    for _ in range(5 * SLOTS):
        wheel.turn(1)
        talker.seen = wheel.clock[0] + 0.1  # it talks, and answers no ping
    assert talker.gone_at is None


def test_peer_that_takes_bytes_from_a_full_buffer_is_alive() -> None:
    wheel = Wheel()
    slow = wheel.add(answers=False)
    slow.takes_bytes = True
    wheel.turn(5 * SLOTS)
    assert slow.gone_at is None


def pinged_and_read_until(steps: int) -> tuple[Wheel, FakePeer]:
    """Return a peer that was pinged, and took bytes for some steps after that."""
    wheel = Wheel()
    slow = wheel.add(answers=False)
    slow.takes_bytes = True
    while not slow.pings:
        wheel.turn(1)
    wheel.turn(steps)
    slow.takes_bytes = False  # what was before the ping is taken, and the ping with it
    return wheel, slow


@pytest.mark.parametrize("until", [SLOTS * 3 // 4 - 1, SLOTS - 2])
def test_peer_that_took_the_ping_just_before_a_look_has_time_to_answer(
    until: int,
) -> None:
    wheel, slow = pinged_and_read_until(until)
    wheel.turn(SLOTS // 8)
    assert slow.gone_at is None
    slow.seen = wheel.clock[0]  # its answer
    slow.takes_bytes = True
    wheel.turn(5 * SLOTS)
    assert slow.gone_at is None


@pytest.mark.parametrize("until", [SLOTS // 4, SLOTS * 3 // 4 - 1])
def test_peer_that_took_the_ping_and_does_not_answer_is_cut_before_the_next(
    until: int,
) -> None:
    wheel, frozen = pinged_and_read_until(until)
    wheel.turn(SLOTS)
    assert frozen.gone_at is not None and len(frozen.pings) == 1
    assert frozen.gone_at - frozen.pings[0] <= SLOTS
    assert wheel.metrics.dead == 1


async def test_stalled_server_does_not_kill_its_crowd(running: Running) -> None:
    async with (
        running("heartbeat", heartbeat_interval=0.4) as server,
        peer(server) as ann,
        peer(server) as bob,
    ):
        await eventually(lambda: all(each.latency for each in server.connections))
        time.sleep(1.0)  # noqa: ASYNC251 (the stall is the point: two intervals)
        await eventually(lambda: server.metrics.stalls >= 1)
        for client in (ann, bob):
            assert (await client.ask(type="ping"))["type"] == "pong"
        assert server.metrics.dead == 0


@asynccontextmanager
async def standing_still(every: float, long: float) -> AsyncIterator[None]:
    """Block the loop for ``long`` seconds of every ``every``, like an overload."""
    loop = asyncio.get_running_loop()

    async def stand() -> None:
        while True:
            await asyncio.sleep(every - long)
            time.sleep(long)  # noqa: ASYNC251

    task = loop.create_task(stand())
    try:
        yield
    finally:
        task.cancel()


@pytest.mark.timeout(60)
async def test_server_that_is_late_again_and_again_still_judges(
    running: Running,
) -> None:
    # Between a ping and the look at its answer there is always a stall.
    async with (
        running("heartbeat", heartbeat_interval=1.0) as server,
        peer(server) as live,
        standing_still(every=0.6, long=0.2),
    ):
        dead = await stalled(server.port)
        try:
            await eventually(lambda: server.metrics.dead == 1, within=15)
            turn = server.metrics.stalls
            await eventually(lambda: server.metrics.stalls > turn + 5)
            assert server.metrics.dead == 1
            assert (await live.ask(type="ping"))["type"] == "pong"
        finally:
            dead.transport.abort()


async def filled(connection: LabConnection) -> None:
    """Write to a peer that does not read until its socket is full."""
    while not connection.paused:
        connection.transport.write(bytes(2**20))
        await asyncio.sleep(0)


async def test_peer_that_is_over_already_does_not_end_the_heartbeat_of_others(
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running("heartbeat", heartbeat_interval=0.4) as server:
        leaver = await stalled(server.port)
        (connection,) = server.connections
        await filled(connection)
        # It leaves while its last message is served, and its buffer stays full.
        served = asyncio.Event()
        monkeypatch.setattr(server.application, "receive", lambda *_: served.wait())
        leaver.write(bytes((0x81, 0x82, 0, 0, 0, 0)) + b"{}")
        leaver.write_eof()
        await eventually(connection.transport.is_closing)
        leaver.transport.set_protocol(asyncio.Protocol())  # it reads what was left
        leaver.transport.resume_reading()  # type: ignore[attr-defined]
        await eventually(lambda: connection not in server.sockets)
        served.set()
        monkeypatch.undo()
        dead = await stalled(server.port)
        try:
            await eventually(lambda: server.metrics.dead == 1)
        finally:
            dead.transport.abort()
            leaver.transport.abort()
    assert not [each for each in caplog.records if each.exc_info]


async def test_latency_of_a_connection_is_kept(running: Running) -> None:
    async with running("heartbeat", heartbeat_interval=0.1) as server, peer(server):
        (connection,) = server.connections
        await eventually(lambda: connection.latency > 0)
        assert connection.latency < 5
