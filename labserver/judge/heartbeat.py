"""A dead peer is gone within two intervals; a live one stays."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

from labserver.judge.raw import PING as PING_OPCODE
from labserver.judge.raw import PONG, Raw, raw
from labserver.judge.world import (
    Broken,
    World,
    connection_of,
    must,
    peer,
    until,
)
from labserver.server.connection import PING, LabConnection
from labserver.server.member import Outbox
from labserver.server.server import LabServer

INTERVAL = 0.5
# Of a reader that a busy machine keeps from reading: twice this without a byte taken
# ends it, and rightly.
SLOW_INTERVAL = 1.0
SLACK = 0.7  # seconds that a busy machine may add to two intervals
DEAD = 6
WORST_INTERVAL = 1.0  # three of it are more than two and what a machine may add
GRACE = 1.0  # seconds beside two intervals, seen from outside
LARGE = 60_000  # bytes of a message
FILLING = 220  # such messages fill what the kernel hides (4 MB) and more


async def who_vanished_is_ended(world: World) -> None:
    """Peers that fall silent are ended within two intervals; a quiet one stays."""
    lobby, count = world.room("lobby"), 12
    async with (
        # A server that ends a slow member leaves it ``stuck_timeout`` for the goodbye.
        world.running(heartbeat_interval=INTERVAL, stuck_timeout=1.0) as server,
        peer(server, "quiet") as quiet,
        peer(server, "ann") as ann,
        raw(server, "full", small=True) as full,
        AsyncExitStack() as stack,
    ):
        # One has a full buffer: a ping cannot even be sent to it.
        await full.join(lobby)
        full.sleep()
        await world.fill(ann, lobby, FILLING, LARGE, "while a member reads nothing")
        idle = [
            await stack.enter_async_context(raw(server, f"idle{number}"))
            for number in range(count)
        ]
        for each in idle:
            each.sleep()
        await asyncio.sleep(2 * INTERVAL + GRACE)
        ends = await asyncio.gather(*(each.ended(quiet=0.2) for each in idle))
        left = [each for each, end in zip(idle, ends, strict=True) if not end]
        waited = f"{2 * INTERVAL + GRACE:g} s"
        since = f"{waited} after falling silent (heartbeat {INTERVAL:g} s)"
        told = sum(each.goodbye for each in left)
        more = f"; {told} of them were sent a goodbye, and are waited for"
        must(
            not left,
            f"{len(left)} of {count} dead peers are still connected {since}"
            + (more if told else ""),
        )
        # What the kernel held comes, even if the server had given up: not more.
        gone = await full.ended()
        must(
            gone and full.taken < FILLING * LARGE * 3 / 4,
            f"a dead peer with a full buffer is still connected {since}: "
            f"{full.taken / 1e6:.1f} MB more were sent when it read again",
        )
        async with world.awaiting("the answer to a quiet peer, which answers pings"):
            await quiet.ask(type="ping")


async def who_reads_slowly_stays(world: World) -> None:
    """A peer that reads slowly, and answers each ping that it reads, is not ended."""
    lobby, seconds = world.room("lobby"), 4 * SLOW_INTERVAL + GRACE
    async with (
        # So much waits for it that a ping is read two intervals after it was sent.
        world.running(
            heartbeat_interval=SLOW_INTERVAL,
            outbox_limit=64_000_000,
            stuck_timeout=2 * SLOW_INTERVAL,
        ) as server,
        peer(server, "ann") as ann,
        raw(server, "slow", small=True) as slow,
    ):
        await slow.join(lobby)
        filling = world.fill(ann, lobby, FILLING, LARGE, "while a member reads slowly")
        publishing = asyncio.create_task(filling)
        try:
            with _not_ended(publishing):
                end = time.monotonic() + seconds
                # A publisher that ends early has words of its own, below. One that
                # takes longer is no reason to stop reading: that would be stuck.
                while not _failed(publishing) and not (
                    publishing.done() and time.monotonic() > end
                ):
                    await slow.message()
                    await asyncio.sleep(0.1)
            last = (await publishing)[-1]
            # What the kernel held comes, even if the server had given up: not the rest.
            with _not_ended(publishing):
                while (await slow.message()).get("seq") != last:
                    pass
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)


def _failed(task: asyncio.Task[Any]) -> bool:
    return task.done() and task.exception() is not None


@contextmanager
def _not_ended(publishing: asyncio.Task[Any]) -> Iterator[None]:
    """Say of a slow reader what its connection says by an exception."""
    try:
        yield
    except (EOFError, ConnectionError, Broken) as exc:
        if _failed(publishing):
            return  # there was nothing to read: the publisher says why
        how = str(exc) if isinstance(exc, Broken) else ""
        raise Broken(
            f"a member that reads {LARGE // 1000} kB every 0.1 s, and answers each "
            f"ping that it reads, was ended (heartbeat {SLOW_INTERVAL:g} s): "
            + (how or "its connection broke without a close frame")
        ) from None


async def pings_are_no_burst(world: World) -> None:
    """Peers that came one by one are not pinged all in the same moment."""
    count, interval = 24, 1.0
    times: list[float] = []
    pings: Counter[str] = Counter()

    async def listen(client: Raw) -> None:
        while True:
            opcode, data = await client.receive()
            if opcode == PING_OPCODE:
                times.append(time.monotonic())
                pings[client.name] += 1
                client.frame(PONG, data)

    async with (
        world.running(heartbeat_interval=interval) as server,
        AsyncExitStack() as stack,
    ):
        tasks = []
        try:
            for number in range(count):
                client = await stack.enter_async_context(raw(server, f"u{number}"))
                tasks.append(asyncio.create_task(listen(client)))
                await asyncio.sleep(interval / count)
            try:
                await world.eventually(
                    "a ping to each", lambda: len(times) >= 2 * count
                )
            except Broken as broken:
                twice = sum(each > 1 for each in pings.values())
                raise Broken(
                    f"{broken}, and one more: {twice} of {count} had two"
                ) from None
            gone = sum(task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    must(not gone, f"{gone} of {count} peers that answer pings were ended")
    eighth = interval / 8
    most = max(sum(at <= other < at + eighth for other in times) for at in times)
    must(
        most < count * 3 / 4,
        f"{most} of {count} peers were pinged within an eighth of the interval",
    )


async def dead_peers_are_gone(world: World) -> None:
    """Peers that fell silent are gone within two intervals, even with full buffers."""
    async with (
        world.inside(heartbeat_interval=WORST_INTERVAL) as server,
        peer(server) as live,
        AsyncExitStack() as stack,
    ):
        dead = [
            await stack.enter_async_context(raw(server, f"dead{number}"))
            for number in range(DEAD)
        ]
        async with world.awaiting(f"a first ping to each of {DEAD} peers"):
            await asyncio.gather(*map(_falls_silent, dead))
        # One of them has a full buffer: a ping cannot even be sent to it.
        silenced, *_ = _silent(server)
        silenced.transport.write(bytes(8_000_000))
        stalls = server.metrics.stalls
        try:
            async with asyncio.timeout(2 * WORST_INTERVAL + SLACK):
                await until(lambda: not _silent(server))
        except TimeoutError:
            # After a stall of its own, the server rightly waits for another interval.
            await asyncio.sleep((server.metrics.stalls - stalls) * WORST_INTERVAL)
        left, counted = len(_silent(server)), server.metrics.dead
        must(
            not left,
            f"{left} of {DEAD} dead peers still open after two intervals, "
            f"{counted} counted as dead",
        )
        async with world.awaiting("the answer to a live peer"):
            await live.ask(type="ping")
        must(counted == DEAD, f"{counted} were counted as dead")
        closes = server.metrics.closes[4408, "server"]
        must(closes == DEAD, f"{closes} closes with 4408")


async def _falls_silent(client: Raw) -> None:
    """Answer the first ping, and no other: it is longest to what another one says."""
    while (frame := await client.receive())[0] != PING_OPCODE:
        pass
    client.frame(PONG, frame[1])
    client.sleep()


def _silent(server: LabServer) -> list[LabConnection]:
    return [each for each in server.connections if each.identity.user != "ann"]


class PingTimes:
    """An outbox that records the time of each ping."""

    def __init__(self, outbox: Outbox, times: list[float]) -> None:
        self.outbox = outbox
        self.times = times
        self.deliver = outbox.deliver
        self.paused, self.resumed = outbox.paused, outbox.resumed
        self.waiting = outbox.waiting

    def control(self, frame: bytes) -> None:
        if frame == PING:
            self.times.append(time.monotonic())
        self.outbox.control(frame)


async def pings_are_spread(world: World) -> None:
    """Pings to many peers are spread over the interval, and live peers stay."""
    count = 24
    times: list[float] = []
    async with (
        world.inside(heartbeat_interval=INTERVAL) as server,
        AsyncExitStack() as stack,
    ):
        for number in range(count):
            await stack.enter_async_context(peer(server, f"u{number}"))
            connection = connection_of(server, f"u{number}")
            connection.outbox = PingTimes(connection.outbox, times)
        await world.eventually("a ping to each", lambda: len(times) >= 2 * count)
        must(len(server.connections) == count, "a live peer was ended")
    eighth = INTERVAL / 8
    most = max(sum(at <= other < at + eighth for other in times) for at in times)
    must(
        most < count * 3 / 4,
        f"{most} of {count} pings within an eighth of the interval",
    )
