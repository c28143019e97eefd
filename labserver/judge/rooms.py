"""A message reaches everyone in its room, once, and its frame is built once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

from labserver.contract.wire import Chunk
from labserver.judge.oracle import Oracle
from labserver.judge.world import World, connection_of, must, peer
from labserver.server.member import Outbox
from labserver.server.server import LabServer


async def everyone_hears_it_once(world: World) -> None:
    """Members get each message once and in order; other clients do not get it."""
    async with (
        world.running() as server,
        peer(server, "ann") as ann,
        peer(server, "bob") as bob,
        peer(server, "cy", subprotocols=["lab.json"], compression="deflate") as cy,
        peer(server, "dan") as dan,
    ):
        async with world.awaiting("all members' messages"):
            for client in (ann, bob, cy):
                await client.join("red")
            await bob.join("red")  # again: still one member
            await dan.join("blue")
            for number in range(50):
                await ann.send(type="publish", room="red", payload=number)
            await ann.send(type="publish", room="red", payload="last", ref="p")
            for client in (ann, bob, cy):
                oracle = Oracle()
                while oracle.verdict.received < 51:
                    message = await client.recv()
                    oracle.saw(message)
                    must(message.get("from", "ann") == "ann", "not from the publisher")
                for message in await client.heard():
                    oracle.saw(message)
                verdict = oracle.verdict
                must(verdict.clean and verdict.received == 51, str(verdict))
            must(not await dan.heard(), "a message reached a client of another room")
        async with world.awaiting("a message after a leave"):
            await ann.ask(type="leave", room="red")
            await bob.ask(type="publish", room="red", payload="bye", ref=2)
            must(not await ann.heard(), "a message reached a client that had left")
            await cy.until("message")


async def empty_rooms_are_forgotten(world: World) -> None:
    """A room is deleted with its last member, whether it left or disconnected."""
    async with world.running() as server:
        async with peer(server, "ann") as ann, peer(server, "bob") as bob:
            for client in (ann, bob):
                await client.join("red")
            await ann.join("blue")
            await ann.ask(type="leave", room="blue")
            must(connection_of(server, "ann").rooms == {"red"}, "ann is still in blue")
            must(set(server.hub.rooms) == {"red"}, f"rooms: {sorted(server.hub.rooms)}")
        await world.eventually(
            "rooms without members to go", lambda: not server.hub.rooms
        )


class Recorder:
    """An outbox that records the chunks that it gets."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.chunks: list[Chunk] = []
        self.given: Callable[[], object] | None = None
        self.control = outbox.control
        self.paused, self.resumed = outbox.paused, outbox.resumed
        self.waiting = outbox.waiting

    def deliver(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self.outbox.deliver(chunk)
        if self.given is not None:
            self.given()


def _recorded(server: LabServer, *users: str) -> list[Recorder]:
    recorders = []
    for user in users:
        connection = connection_of(server, user)
        connection.outbox = recorder = Recorder(connection.outbox)
        recorders.append(recorder)
    return recorders


async def coming_and_going_costs_nobody_a_message(world: World) -> None:
    """Members get every message while another one leaves during the delivery."""
    users = ("ann", "bob", "cy", "dan")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(world.running())
        ann, *stay = [
            await stack.enter_async_context(peer(server, user)) for user in users
        ]
        for client in stay:
            await client.join("red")
        leaving = connection_of(server, "ann")

        def leave() -> None:
            server.hub.remove(leaving, "red")

        # ann leaves as soon as any member was given a message.
        for recorder in _recorded(server, *users):
            recorder.given = partial(asyncio.get_running_loop().call_soon, leave)
        for number in range(5):
            async with world.awaiting("a message while another member leaves"):
                await ann.join("red")
                await ann.send(type="publish", room="red", payload=number)
                for client in stay:
                    got = (await client.until("message"))["payload"]
                    must(got == number, f"heard {got} instead of {number}")


async def frame_is_built_once(world: World) -> None:
    """Members with the same wire variant get the same frame object."""
    async with (
        world.running() as server,
        peer(server, "ann") as ann,
        peer(server, "bob") as bob,
        peer(server, "cy") as cy,
    ):
        await bob.join("red")
        await cy.join("red")
        bobs, cys = _recorded(server, "bob", "cy")
        async with world.awaiting("a message"):
            for _ in range(3):  # two in one tick would share a frame
                await ann.publish("red", 1, size=200)
                await bob.until("message")
                await cy.until("message")
        pairs = zip(bobs.chunks, cys.chunks, strict=True)
        built = sum(1 if one is other else 2 for one, other in pairs)
        must(built == 3, f"{built} frames were built for 3 messages to 2 members")


async def messages_of_a_tick_share_a_write(world: World) -> None:
    """Messages that reach a room in one tick are written to each member together."""
    count = 20
    async with (
        world.running() as server,
        peer(server, "bob") as bob,
    ):
        await bob.join("red")
        (bobs,) = _recorded(server, "bob")
        for number in range(count):
            server.parts.broker.publish("red", b'"from":"x","payload":%d}' % number)
        async with world.awaiting("a message"):
            for _ in range(count):
                await bob.until("message")
        writes = len(bobs.chunks)
        must(writes <= count / 2, f"{writes} writes for {count} messages of one tick")
