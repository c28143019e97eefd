"""One user fills Redis, and the others go on."""

from __future__ import annotations

import asyncio

import pytest
from redis import Redis

from labserver.redis.embedded import embedded_redis
from labserver.server.server import LabServer
from tests.conftest import Peer, Running, eventually, peer

pytestmark = pytest.mark.timeout(60)
MOST = 16 * 2**20  # bytes of Redis's memory
LARGE = "x" * 60_000
ANY_RATE = {"message_rate_limit": 0.0}  # as fast as many connections would be


async def hear(*servers: LabServer) -> None:
    for server in servers:
        await eventually(lambda server=server: not server.parts.broker.deaf)


async def say(client: Peer, room: str, payload: object) -> dict:
    return await client.ask(type="publish", room=room, payload=payload)


async def fill(client: Peer, rooms: list[str], total: int) -> int:
    """Publish ``total`` bytes; return how many messages were refused."""
    refused = 0
    for number in range(total // len(LARGE)):
        answer = await say(client, rooms[number % len(rooms)], LARGE)
        refused += answer["type"] == "error"
    return refused


async def test_messages_to_rooms_that_nobody_is_in_fill_no_redis(
    running: Running,
) -> None:
    async with (
        embedded_redis("--maxmemory", str(MOST)) as redis,
        running("resume", redis=redis.url, **ANY_RATE) as server,
        peer(server, "eve") as eve,
        peer(server) as ann,
    ):
        await hear(server)
        await ann.join("lobby")
        assert await fill(eve, [f"room-{n}" for n in range(100)], 3 * MOST) == 0
        assert (await say(ann, "lobby", 1))["type"] == "ack"
        assert (await ann.join("another"))["type"] == "joined"


async def test_only_rooms_of_the_user_who_fills_redis_are_emptied(
    running: Running,
) -> None:
    """A user fills Redis from two replicas; another user's history stays."""
    async with (
        embedded_redis("--maxmemory", str(2 * MOST)) as redis,
        running("resume", redis=redis.url, **ANY_RATE) as one,
        running("resume", redis=redis.url, **ANY_RATE) as two,
        peer(one, "eve") as eve,
        peer(two, "eve") as twin,
        peer(one) as ann,
        peer(two, "bob") as bob,
    ):
        await hear(one, two)
        epoch = (await ann.join("quiet"))["epoch"]
        await say(ann, "quiet", 1)
        await bob.join("lobby")

        async def flood(client: Peer, name: str) -> int:
            rooms = [f"{name}-{number}" for number in range(40)]
            for room in rooms:
                await client.join(room)
                await client.ask(type="leave", room=room)
            return await fill(client, rooms, 4 * MOST)

        floods = [
            asyncio.create_task(flood(eve, "eve")),
            asyncio.create_task(flood(twin, "twin")),
        ]
        answers = []
        while not all(task.done() for task in floods):
            answers.append(await say(bob, "lobby", len(answers)))
        assert [await task for task in floods] == [0, 0]
        assert {answer["type"] for answer in answers} == {"ack"}
        with Redis.from_url(redis.url) as client:
            assert client.info("memory")["used_memory"] < 2 * MOST
        joined = await bob.join("quiet", after={"epoch": epoch, "seq": 0})
        assert joined["recovered"]


async def test_redis_that_is_full_is_emptied_of_what_its_replicas_stored(
    running: Running,
) -> None:
    async with (
        embedded_redis("--maxmemory", "0") as redis,
        running("resume", redis=redis.url, **ANY_RATE) as server,
        peer(server, "eve") as eve,
        peer(server) as ann,
    ):
        await hear(server)
        for number in range(10):
            await eve.join(f"room-{number}")
        await fill(eve, [f"room-{number}" for number in range(10)], MOST)
        with Redis.from_url(redis.url) as client:
            client.config_set("maxmemory", MOST // 2)

            async def goes_on() -> bool:
                return (await say(ann, "lobby", 1))["type"] == "ack"

            await eventually(goes_on)
            assert client.info("memory")["used_memory"] < MOST // 2


async def test_small_history_stays_though_others_fill_redis(running: Running) -> None:
    async with (
        embedded_redis("--maxmemory", str(MOST)) as redis,
        running("resume", redis=redis.url, **ANY_RATE) as server,
        peer(server) as ann,
    ):
        await hear(server)
        epoch = (await ann.join("lobby"))["epoch"]
        for number in range(3):
            await say(ann, "lobby", number)
        with Redis.from_url(redis.url) as client:
            while client.info("memory")["used_memory"] < MOST * 0.85:
                client.set(f"of others {client.dbsize()}", b"x" * 100_000)
        memory = server.parts.broker.memory
        for _ in range(3):
            await memory._look()
        assert memory.tight
        joined = await ann.join("lobby", after={"epoch": epoch, "seq": 0})
        assert joined["recovered"]


async def test_keys_are_kept_for_less_long_while_redis_is_nearly_full(
    running: Running,
) -> None:
    async with (
        embedded_redis("--maxmemory", str(MOST)) as redis,
        running("resume", redis=redis.url, **ANY_RATE) as server,
        peer(server) as ann,
    ):
        await hear(server)
        with Redis.from_url(redis.url) as client:
            others = []
            while client.info("memory")["used_memory"] < MOST * 0.85:
                others.append(f"of others {len(others)}")
                client.set(others[-1], b"x" * 100_000)
            number = 0

            async def longest() -> int:
                nonlocal number
                number += 1
                said = {"type": "publish", "room": "lobby", "payload": 1}
                for _ in range(2):
                    answer = await ann.ask(**said, key=f"key-{number}")
                    assert (answer["type"], answer["seq"]) == ("ack", number)
                ttls = [client.ttl(key) for key in client.scan_iter("lab:*:key:*")]
                client.delete(*client.scan_iter("lab:*:key:*"))
                return max(ttls)

            async def brief() -> bool:
                return await longest() <= 10

            await eventually(brief)
            client.delete(*others)

            async def as_long_as_promised() -> bool:
                return await longest() > 290

            await eventually(as_long_as_promised)
