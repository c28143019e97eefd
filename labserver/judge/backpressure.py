"""A slow reader hurts only itself, and is told what it lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from labserver.judge.oracle import Oracle, lost
from labserver.judge.world import (
    Peer,
    World,
    connection_of,
    must,
    peer,
    stalled,
)
from labserver.server.connection import LabConnection
from labserver.server.server import LabServer

LIMIT = 65536  # bytes that an outbox may hold
SIZE = 4000  # bytes of a message
SMALL = {"outbox_limit": LIMIT, "send_buffer": 16384}
POLICIES = ("disconnect", "drop-newest", "drop-oldest", "conflate")


@asynccontextmanager
async def _with_sloth(
    world: World, policy: str
) -> AsyncIterator[tuple[LabServer, LabConnection, Peer, Peer]]:
    """Yield a server, its connection of a stalled member, a publisher and a member."""
    async with (
        world.running(**SMALL, outbox_policy=policy) as server,
        peer(server, "bob", max_queue=None) as bob,
        peer(server, "ann") as ann,
    ):
        sloth = await stalled(server.port)
        try:
            await bob.join("lobby")
            yield server, connection_of(server, "sloth"), ann, bob
        finally:
            sloth.transport.abort()


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
            most = 0
            async with world.awaiting("a drop or a close"):
                while not (slow.ending or server.metrics.drops > 20):
                    await ann.publish("lobby", 5, SIZE)
                    most = max(most, slow.outbox.waiting())
                    must(most <= LIMIT, f"{most} bytes held, limit {LIMIT}")
            must(most > 0, "no bytes were ever held")
            must(
                slow.ending is None or slow.ending.code == 4409,
                f"ended with {slow.ending}",
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


async def every_loss_is_told(world: World) -> None:
    """A reader that was too slow is told of each message that it lost."""
    for policy in POLICIES[1:]:
        async with (
            world.running(**SMALL, outbox_policy=policy) as server,
            peer(server, "ann") as ann,
            peer(server, "bob", max_queue=None) as bob,
            _sleeper(server) as sloth,
        ):
            await bob.join("lobby")
            healthy, oracle, seqs = Oracle(), Oracle(), list[int]()
            async with world.awaiting("a drop"):
                while server.metrics.drops < 20:
                    seqs += await ann.publish("lobby", 5, SIZE)
                    await bob.hear_until(healthy, "lobby", seqs[-1])
            sloth.socket.transport.resume_reading()
            async with world.awaiting("the rest"):
                for message in await sloth.heard():
                    oracle.saw(message)
            silent = lost(oracle, "lobby", seqs)
            must(
                oracle.verdict.clean and not silent,
                f"{policy}: {len(silent)} lost without a gap; {oracle.verdict}",
            )


async def answers_are_never_dropped(world: World) -> None:
    """A reader that was too slow gets an answer to each of its requests."""
    async with (
        world.running(**SMALL, outbox_policy="drop-newest") as server,
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
        await world.eventually("an empty outbox", lambda: not outbox.waiting())
        answers = set[Any]()
        async with world.awaiting("the rest"):
            for message in await sloth.heard():
                answers.add(message.get("ref"))
        missing = 100 - len(answers & set(range(100)))
        must(not missing, f"{missing} of 100 answers were dropped")
