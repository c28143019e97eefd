"""Every replica delivers its rooms' messages in one order, and hears all of them."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from redis.asyncio import Redis

from labserver.client import Client
from labserver.judge.oracle import Oracle, disagreements, lost
from labserver.judge.world import World, must, peer
from labserver.redis.link import channel_of
from labserver.server.server import LabServer


@asynccontextmanager
async def _two(world: World) -> AsyncIterator[tuple[LabServer, LabServer]]:
    async with world.running() as one, world.running() as two:
        yield one, two


async def replicas_agree_on_one_order(world: World) -> None:
    """Members of two replicas get the same messages once, in the same order."""
    async with _two(world) as (one, two):
        async with (
            world.client(one, "ann") as ann,
            world.client(one, "bob") as bob,
            world.client(two, "cy") as cy,
            world.client(two, "dan") as dan,
        ):
            clients = (ann, bob, cy, dan)
            oracles = [Oracle() for _ in clients]
            for client in clients:
                await client.join("lobby")

            async def speak(client: Client) -> list[int]:
                acks = [
                    await client.publish("lobby", f"{id(client)} {number}")
                    for number in range(25)
                ]
                return [ack["seq"] for ack in acks]

            async def listen(client: Client, oracle: Oracle) -> None:
                async for message in client:
                    oracle.saw(message)
                    if oracle.verdict.received == 100:
                        return

            async with world.awaiting("a hundred messages for each member"):
                seqs = await asyncio.gather(*(speak(client) for client in clients))
                pairs = zip(clients, oracles, strict=True)
                await asyncio.gather(*(listen(*pair) for pair in pairs))
            acknowledged = [seq for each in seqs for seq in each]
            must(sorted(acknowledged) == list(range(1, 101)), "acknowledged otherwise")
            wrong = disagreements(oracles)
            must(not wrong, f"{len(wrong)} places where two members heard otherwise")
            for oracle in oracles:
                must(oracle.verdict.clean, str(oracle.verdict))
                must(not lost(oracle, "lobby", acknowledged), "a message was lost")
        for server in (one, two):
            rooms = server.hub.rooms
            await world.eventually("empty rooms to go", partial(operator.not_, rooms))


async def replica_listens_to_its_own_rooms_only(world: World) -> None:
    """What is said in a room goes to the replicas where it has members."""
    async with _two(world) as (one, two), peer(one) as ann, peer(two, "bob") as bob:
        await ann.join("red")
        await bob.join("blue")
        async with Redis.from_url(world.redis) as redis:
            for room, members in (("red", 1), ("blue", 1), ("nowhere", 0)):
                told = await redis.publish(channel_of(room), b"e 1 ")
                must(
                    told == members,
                    f"{told} replicas were told, {members} have members",
                )


async def who_returns_at_once_hears(world: World) -> None:
    """A room that was empty for a moment is not a deaf one."""
    async with _two(world) as (one, two), peer(one) as ann, peer(two, "bob") as bob:
        await bob.join("red")
        for number in range(10):
            if number < 3:
                await bob.send(type="leave", room="red")
                await bob.join("red")
            async with world.awaiting("a message after leaving and joining again"):
                await ann.publish("red", 1)
                await bob.until("message")
            await asyncio.sleep(0.02)


async def broken_link_loses_nothing(world: World) -> None:
    """A replica whose link broke hears again; what it missed is sent, or told."""
    async with _two(world) as (one, two), peer(one) as ann, peer(two, "bob") as bob:
        oracle = Oracle()
        oracle.saw(await bob.join("red"))
        async with world.awaiting("a message"):
            seqs = await ann.publish("red", 1)
            oracle.saw(await bob.until("message"))
        async with Redis.from_url(world.redis) as redis:
            await redis.client_kill_filter(_type="pubsub")
        async with world.awaiting("what was said after the link broke"):
            seqs += await ann.publish("red", 5)
            while lost(oracle, "red", seqs):
                oracle.saw(await bob.recv())
        must(oracle.verdict.clean, str(oracle.verdict))
