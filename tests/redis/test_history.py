"""Many clients come back to long histories: each gets its part, and none waits long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from redis import Redis

from labserver.processes.faults import Proxy
from labserver.redis.history import Page
from labserver.server.server import LabServer
from tests.conftest import Peer, Running, peer
from tests.redis.test_link import hears, net_to_redis

SIZE = 4000  # bytes of a message


@asynccontextmanager
async def behind_a_network(running: Running) -> AsyncIterator[tuple[LabServer, Proxy]]:
    """Run a server behind a proxy that can slow down its connection to Redis."""
    async with (
        net_to_redis() as (_, net),
        running("resume", redis=f"redis://127.0.0.1:{net.port}") as server,
    ):
        await hears(server)
        yield server, net


async def room_of(ann: Peer, room: str, count: int) -> dict[str, object]:
    """Fill a room; return the cursor from before its first message."""
    joined = await ann.join(room)
    await ann.ask(type="leave", room=room)
    await ann.publish(room, count, SIZE)
    return {"epoch": joined["epoch"], "seq": joined["seq"]}


async def crowd(stack: AsyncExitStack, server: LabServer, count: int) -> list[Peer]:
    return [
        await stack.enter_async_context(peer(server, f"user-{number}", max_queue=None))
        for number in range(count)
    ]


async def test_crowd_that_returns_shares_one_reading(running: Running) -> None:
    """One reading for each client would be 40 MB, too slow for the deadline."""
    async with behind_a_network(running) as (server, net), AsyncExitStack() as stack:
        async with peer(server) as ann:
            place = await room_of(ann, "red", 200)
        back = await crowd(stack, server, 50)
        net.down.rate, before = 4_000_000, net.down.carried
        answers = await asyncio.gather(
            *(
                each.join("red", after=place | {"seq": number})
                for number, each in enumerate(back)
            )
        )
        assert all(each["recovered"] for each in answers), answers
        assert net.down.carried - before < 4 * 200 * SIZE
        for number, each in enumerate(back):
            seqs = [(await each.recv())["seq"] for _ in range(200 - number)]
            assert seqs == list(range(number + 1, 201))


async def test_long_histories_keep_no_message_waiting(running: Running) -> None:
    """Eight rooms of 800 KB over a network that needs longer than the deadline."""
    rooms = [f"room-{number}" for number in range(8)]
    async with behind_a_network(running) as (server, net), AsyncExitStack() as stack:
        async with peer(server) as ann:
            places = [await room_of(ann, room, 200) for room in rooms]
        back = await crowd(stack, server, len(rooms))
        eve = await stack.enter_async_context(peer(server, "eve"))
        net.down.rate = 1_500_000
        joins = [
            asyncio.create_task(each.join(room, after=place))
            for each, room, place in zip(back, rooms, places, strict=True)
        ]
        # While the histories are read, other commands go first.
        assert await eve.publish("green", 1) == [1]
        assert not all(each.done() for each in joins)
        for each in back:
            each.patience = 30
        answers = await asyncio.gather(*joins)
        assert all(each["recovered"] for each in answers), answers


async def test_client_that_missed_too_much_takes_nothing_from_the_others(
    running: Running, redis: Redis
) -> None:
    async with running("resume", outbox_limit=500_000) as server, peer(server) as ann:
        place = await room_of(ann, "red", 300)
        async with peer(server, "bob") as bob, peer(server, "eve") as eve:
            joined = await asyncio.gather(
                bob.join("red", after=place),
                eve.join("red", after=place | {"seq": 250}),
            )
            assert [each["recovered"] for each in joined] == [False, True]
            assert [(await eve.recv())["seq"] for _ in range(50)] == [*range(251, 301)]


async def test_client_that_stops_waiting_takes_nothing_from_the_others(
    running: Running, redis: Redis
) -> None:
    async with running("resume") as server, peer(server) as ann:
        await room_of(ann, "red", 3)
        histories = server.parts.broker.histories
        gone, stays = [asyncio.create_task(histories.read("red", 0)) for _ in range(2)]
        await asyncio.sleep(0)
        gone.cancel()
        position = await stays
        assert [each.last for each in position.kept] == [1, 2, 3]


async def test_reading_begins_again_when_another_server_takes_over_between_its_pages(
    running: Running, redis: Redis
) -> None:
    async with running("resume") as server, peer(server) as ann:
        place = await room_of(ann, "red", 10)
        histories = server.parts.broker.histories
        read, pages = histories.page, 0

        async def page(
            room: str, after: int | None, end: str = "", size: int = 0
        ) -> Page:
            nonlocal pages
            pages += 1
            if pages == 2:  # the new server has one message, and numbers another
                redis.delete("lab:{red}:history")
                for seq in (1, 2):
                    entry = {"t": 2**52, "b": b'"from":"ann","payload":"new"}'}
                    redis.xadd("lab:{red}:history", entry, id=f"{seq}-1")
                redis.hset("lab:{red}", mapping={"seq": 1, "by": "another"})
            return await read(room, after, end, size)

        histories.page = page
        joined = await ann.join("red", after=place)
        assert pages > 2
        assert joined["epoch"] != place["epoch"]
        assert joined["epoch"] == server.parts.broker.feeds["red"].epoch


async def test_message_larger_than_a_page_is_read(
    running: Running, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labserver.redis.history.PAGE", 1000)
    async with (
        running("resume") as one,
        running("resume") as two,
        peer(one) as ann,
        peer(two, "bob") as bob,
    ):
        place = await ann.join("red")
        redis.client_kill_filter(_type="pubsub")
        assert await bob.publish("red", 5, SIZE) == [1, 2, 3, 4, 5]
        assert [(await ann.until("message"))["seq"] for _ in range(5)] == [*range(1, 6)]
        joined = await bob.join("red", after={"epoch": place["epoch"], "seq": 0})
        assert joined["recovered"]


async def test_replica_that_was_away_for_longer_than_messages_live_gets_the_young_ones(
    running: Running, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labserver.redis.history.PAGE", 1000)
    async with (
        running("resume", history_ttl=60) as one,
        running("resume", history_ttl=60) as two,
        peer(one) as ann,
        peer(two, "bob") as bob,
    ):
        await ann.join("red")
        await bob.publish("red", 1)
        assert (await ann.until("message"))["seq"] == 1
        # These are stored, not published; the first are too old when a client asks.
        for seq in range(2, 12):
            body = b'"from":"bob","payload":"%b"}' % (b"x" * 400)
            entry = {"t": 1 if seq < 8 else 2**52, "b": body}
            redis.xadd("lab:{red}:history", entry, id=f"{seq}-1")
        redis.hset("lab:{red}", "seq", 11)
        assert await bob.publish("red", 1, SIZE) == [12]
        gone: list[int] = []
        while len(gone) < 6:  # page by page
            told = await ann.recv()
            gone += range(told["from"], told["to"] + 1)
        assert gone == [*range(2, 8)]
        assert [(await ann.recv())["seq"] for _ in range(5)] == [*range(8, 13)]
