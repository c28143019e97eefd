"""A slow reader hurts only itself, and is told what it lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from labserver.judge.oracle import Oracle, lost
from labserver.judge.raw import Raw, raw
from labserver.judge.world import (
    Broken,
    Peer,
    World,
    connection_of,
    must,
    peer,
    stalled,
)
from labserver.server.connection import LabConnection
from labserver.server.member import Outbox
from labserver.server.server import LabServer

LIMIT = 65536  # bytes that an outbox may hold
SIZE = 4000  # bytes of a message
LARGE = 60_000  # bytes of one that fills quickly what the kernel hides
FILLING = 220  # of these: three times the 4 MB that a kernel hides
GROWTH = 24_000_000  # bytes of memory that a runtime may take for reasons of its own
SMALL = {"outbox_limit": LIMIT, "send_buffer": 16384}
POLICIES = ("disconnect", "drop-newest", "drop-oldest", "conflate")


@asynccontextmanager
async def _with_sloth(
    world: World, policy: str
) -> AsyncIterator[tuple[LabServer, LabConnection, Peer, Peer]]:
    """Yield a server, its connection of a stalled member, a publisher and a member."""
    async with (
        world.inside(**SMALL, outbox_policy=policy) as server,
        peer(server, "bob", max_queue=None) as bob,
        peer(server, "ann") as ann,
    ):
        sloth = await stalled(server.port)
        try:
            await bob.join("lobby")
            yield server, connection_of(server, "sloth"), ann, bob
        finally:
            sloth.transport.abort()


async def a_stuck_reader_holds_up_nobody(world: World) -> None:
    """A stuck and a dribbling member hold up nobody, and cost nobody a message."""
    lobby, healthy = world.room("lobby"), world.healthy
    async with (
        world.running() as server,
        peer(server, "ann") as ann,
        AsyncExitStack() as stack,
    ):
        others = [
            await stack.enter_async_context(peer(server, f"h{each}", max_queue=None))
            for each in range(healthy)
        ]
        oracles = [Oracle() for _ in others]
        for oracle, other in zip(oracles, others, strict=True):
            oracle.saw(await other.join(lobby))

        async def longest(count: int, what: str) -> float:
            """Publish; return the longest that a message took to all others."""
            most = 0.0
            for _ in range(count):
                sent = time.monotonic()
                async with world.awaiting(what):
                    seqs.extend(await ann.publish(lobby, 1, LARGE))
                    for oracle, other in zip(oracles, others, strict=True):
                        while (message := await other.recv())["type"] != "message":
                            oracle.saw(message)
                        oracle.saw(message)
                most = max(most, time.monotonic() - sent)
            return most

        seqs: list[int] = []
        control = await longest(30, "a message, without any slow member")
        stuck = await stack.enter_async_context(raw(server, "stuck", small=True))
        dribbler = await stack.enter_async_context(raw(server, "dribbler", small=True))
        for slow in (stuck, dribbler):
            await slow.join(lobby)
            slow.sleep()
        dribbling = asyncio.create_task(_dribble(dribbler))
        try:
            most = await longest(
                FILLING, f"a message to {healthy} members, while another reads nothing"
            )
        finally:
            dribbling.cancel()
            await asyncio.gather(dribbling, return_exceptions=True)
        for oracle, other in zip(oracles, others, strict=True):
            silent = lost(oracle, lobby, seqs)
            must(
                oracle.verdict.clean and not silent and not oracle.verdict.gaps,
                f"{other.name}, which reads, lost {len(silent)}; {oracle.verdict}",
            )
        allowed = max(1.0, 10 * control)
        must(
            most < allowed,
            f"while one member read nothing, the other {healthy} waited {most:.1f} s "
            f"({control:.3f} s without it)",
        )


async def _dribble(client: Raw) -> None:
    """Read a little, ten times a second."""
    while True:
        client.wake()
        await asyncio.sleep(0.001)
        client.transport.pause_reading()
        await asyncio.sleep(0.1)


async def memory_stays_bounded(world: World) -> None:
    """What stuck readers do not take costs the server little memory."""
    lobby, count, rounds = world.room("lobby"), 4, 3 * FILLING
    async with (
        world.running(outbox_limit=LIMIT, history_limit=10) as server,
        peer(server, "ann") as ann,
        AsyncExitStack() as stack,
    ):
        world.memory(server)  # where it cannot be seen, nothing is sent
        await world.fill(ann, lobby, rounds, LARGE, "without any slow member")
        before = world.memory(server)
        for number in range(count):
            client = raw(server, f"stuck{number}", small=True)
            stuck = await stack.enter_async_context(client)
            await stuck.join(lobby)
            stuck.sleep()
        await world.fill(ann, lobby, rounds, LARGE, "while members read nothing")
        grown = world.memory(server) - before
        must(
            grown < GROWTH,
            f"{grown / 1e6:.0f} MB more memory for {count} members that read nothing "
            f"of {rounds * LARGE / 1e6:.0f} MB, where each may hold {LIMIT} bytes",
        )


async def who_is_stuck_is_ended(world: World) -> None:
    """A reader that takes not one byte is ended, and the server lives on."""
    lobby = world.room("lobby")
    async with (
        world.running(outbox_limit=LIMIT, stuck_timeout=1.0) as server,
        peer(server, "ann") as ann,
        raw(server, "stuck", small=True) as stuck,
    ):
        await stuck.join(lobby)
        stuck.sleep()
        await world.fill(ann, lobby, FILLING, LARGE, "while a member reads nothing")
        await asyncio.sleep(2.0)
        must(
            await stuck.ended(),
            "a member that read nothing for 2 s is still connected (stuck_timeout 1 s)",
        )


async def who_reads_no_more_is_ended(world: World) -> None:
    """A reader that was slow, and then takes not one byte more, is ended, too."""
    lobby, patience = world.room("lobby"), 1.0
    async with (
        # All of it may wait, so that only the deadline ends the reader.
        world.running(outbox_limit=64_000_000, stuck_timeout=patience) as server,
        peer(server, "ann") as ann,
        raw(server, "tired", small=True) as tired,
    ):
        await tired.join(lobby)
        filling = world.fill(ann, lobby, FILLING, LARGE, "while a member reads slowly")
        publishing = asyncio.create_task(filling)
        try:
            published = 0.0
            while not published or time.monotonic() < published + 1.5 * patience:
                await tired.message()
                await asyncio.sleep(0.1)
                if publishing.done() and not published:
                    published = time.monotonic()
        except (EOFError, ConnectionError):
            raise Broken(
                f"a member that reads {LARGE // 1000} kB every 0.1 s was ended "
                f"(stuck_timeout {patience:g} s)"
            ) from None
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
        tired.sleep()
        await asyncio.sleep(3 * patience)
        must(
            await tired.ended(),
            f"a member that read slowly, and then nothing for {3 * patience:g} s, is "
            f"still connected (stuck_timeout {patience:g} s)",
        )


async def no_loss_is_silent(world: World) -> None:
    """A reader that was too slow is ended, or told what it lost, and answered."""
    lobby = world.room("lobby")
    async with (
        world.running() as server,
        peer(server, "ann") as ann,
        raw(server, "sloth", small=True) as sloth,
    ):
        oracle = Oracle()
        sloth.say(type="join", room=lobby)
        while (message := await sloth.message())["type"] != "joined":
            pass
        oracle.saw(message)
        sloth.sleep()
        what = "while a member reads nothing"
        seqs = await world.fill(ann, lobby, FILLING, LARGE, what)
        sloth.wake()
        sloth.say(type="ping", ref="all")
        try:
            async with world.awaiting("the answer to a ping of who reads again"):
                while (message := await sloth.message()).get("ref") != "all":
                    oracle.saw(message)
        except (EOFError, Broken) as end:
            if isinstance(end, Broken) and "closed with" not in str(end):
                raise
            return  # it knows that it has to come back
        silent = lost(oracle, lobby, seqs)
        must(
            oracle.verdict.clean and not silent,
            f"{len(silent)} of {len(seqs)} messages lost, and no gap was told before "
            f"the pong; {oracle.verdict}",
        )


async def the_others_are_not_held_up(world: World) -> None:
    """A healthy reader gets every message, while another reader is stalled."""
    for policy in POLICIES:
        async with _with_sloth(world, policy) as (server, slow, ann, bob):
            oracle, seqs = Oracle(), list[int]()
            async with world.awaiting("the healthy reader's messages"):
                while not (server.metrics.drops or slow.ending):
                    seqs += await ann.publish("lobby", 10, SIZE)
                    for _ in range(10):
                        oracle.saw(await bob.recv())
            must(oracle.verdict.clean, f"the healthy reader: {oracle.verdict}")
            must(not lost(oracle, "lobby", seqs), "the healthy reader lost messages")


async def what_is_held_stays_bounded(world: World) -> None:
    """At most ``outbox_limit`` bytes wait for one reader, whatever the policy."""
    for policy in POLICIES:
        async with _with_sloth(world, policy) as (server, slow, ann, _):
            most, asked = 0, False
            async with world.awaiting("a drop or a close"):
                while not (slow.ending or server.metrics.drops > 20):
                    await ann.publish("lobby", 5, SIZE)
                    if slow.paused and not asked:
                        asked = True
                        _must_count(slow)
                    most = max(most, slow.outbox.waiting())
                    must(most <= LIMIT, f"{most} bytes held, limit {LIMIT}")
            must(most > 0, "no bytes were ever held")
            must(
                slow.ending is None or slow.ending.code == 4409,
                f"ended with {slow.ending}",
            )


def _must_count(slow: LabConnection) -> None:
    """Write to a full socket, as the library does for a pong: that waits, too."""
    before, data = slow.outbox.waiting(), bytes(1000)
    slow.transport.write(data)
    more = slow.outbox.waiting() - before
    must(
        more == len(data),
        f"{len(data)} bytes more wait in the transport, and waiting() says {more} more",
    )


@asynccontextmanager
async def _sleeper(server: LabServer) -> AsyncIterator[Peer]:
    """Yield a member with small buffers that does not read until it is resumed."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
    async with peer(server, "sloth", sock=sock, max_queue=None) as sloth:
        await sloth.join("lobby")
        sloth.socket.transport.pause_reading()
        yield sloth
        with contextlib.suppress(RuntimeError):
            sloth.socket.transport.resume_reading()


def _empty(outbox: Outbox) -> bool:
    return not outbox.waiting()


async def every_loss_is_told(world: World) -> None:
    """A reader that was too slow is told of each message that it lost."""
    for policy in POLICIES[1:]:
        async with (
            world.inside(**SMALL, outbox_policy=policy) as server,
            peer(server, "ann") as ann,
            peer(server, "bob", max_queue=None) as bob,
            _sleeper(server) as sloth,
        ):
            await bob.join("lobby")
            outbox = connection_of(server, "sloth").outbox
            healthy, oracle, seqs = Oracle(), Oracle(), list[int]()
            for asks in ("when all has come", "at once"):
                drops = server.metrics.drops
                async with world.awaiting("a drop"):
                    while server.metrics.drops < drops + 20:
                        seqs += await ann.publish("lobby", 5, SIZE)
                        await bob.hear_until(healthy, "lobby", seqs[-1])
                sloth.socket.transport.resume_reading()
                if asks != "at once":
                    await world.eventually("an empty outbox", partial(_empty, outbox))
                async with world.awaiting("the rest"):
                    for message in await sloth.heard():
                        oracle.saw(message)
                sloth.socket.transport.pause_reading()
                silent = lost(oracle, "lobby", seqs)
                must(
                    oracle.verdict.clean and not silent,
                    f"{policy}: {len(silent)} lost without a gap before the answer to "
                    f"a ping, sent {asks}; {oracle.verdict}",
                )


async def answers_are_never_dropped(world: World) -> None:
    """A reader that was too slow gets an answer to each of its requests."""
    async with (
        world.inside(**SMALL, outbox_policy="drop-newest") as server,
        peer(server, "ann") as ann,
        _sleeper(server) as sloth,
    ):
        async with world.awaiting("a drop"):
            while server.metrics.drops < 5:
                await ann.publish("lobby", 5, SIZE)
        # Fill the outbox, then ask: the answers come when there is no room.
        async with world.awaiting("a full outbox"):
            while connection_of(server, "sloth").outbox.waiting() <= LIMIT - 20:
                drops = server.metrics.drops
                left = LIMIT - connection_of(server, "sloth").outbox.waiting()
                await ann.publish("lobby", 1, max(1, left - 120))
                if server.metrics.drops > drops:
                    break
        received = server.metrics.received
        for number in range(100):
            await sloth.send(type="ping", ref=number)
        await world.eventually(
            "the requests to arrive",
            lambda: server.metrics.received >= received + 100,
        )
        outbox = connection_of(server, "sloth").outbox
        sloth.socket.transport.resume_reading()
        await world.eventually("an empty outbox", partial(_empty, outbox))
        answers = set[Any]()
        async with world.awaiting("the rest"):
            for message in await sloth.heard():
                answers.add(message.get("ref"))
        missing = 100 - len(answers & set(range(100)))
        must(not missing, f"{missing} of 100 answers were dropped")
