"""An answer of Redis is only accepted for the call that it answers."""

from __future__ import annotations

import asyncio

import pytest

from labserver.processes.faults import Proxy
from tests.conftest import Peer, Running, eventually, peer
from tests.redis.test_link import hears, net_to_redis

# A simple answer, the answers of two other scripts, and a string that is no answer.
STRAYS = [
    b"+OK\r\n",
    b":1\r\n",
    b"*2\r\n:1\r\n:75\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"?!\r\n",
]


def say(net: Proxy, data: bytes) -> None:
    """Send bytes to each client of a proxy, as if they came from the server."""
    for writer in net.writers:
        if writer.get_extra_info("sockname")[1] == net.port:
            writer.write(data)


async def joined(client: Peer, room: str) -> bool:
    return (await client.join(room))["type"] == "joined"


@pytest.mark.parametrize("stray", STRAYS, ids=lambda stray: repr(stray)[2:-1])
async def test_stray_answer_is_taken_for_nothing_and_ends_the_connection(
    stray: bytes, running: Running
) -> None:
    async with (
        net_to_redis() as (_, net),
        running("resume", redis=f"redis://127.0.0.1:{net.port}") as server,
        peer(server) as ann,
        peer(server, "bob") as bob,
    ):
        await hears(server)
        place = await ann.join("red")
        said: dict[int, int] = {}
        for number in range(20):
            if number % 5 == 4:
                say(net, stray)
            answer = await ann.ask(type="publish", room="red", payload=number)
            if answer["type"] == "ack":
                said[answer["seq"]] = number
        await eventually(lambda: joined(bob, "green"))  # the connection works again
        after = {"epoch": place["epoch"], "seq": 0}
        now = await bob.join("red", after=after)
        assert now["recovered"]
        kept = [await bob.recv() for _ in range(now["seq"])]
        true = {each["seq"]: each["payload"] for each in kept}
        assert said.items() <= true.items()
        assert (await ann.ask(type="publish", room="red", payload=0))["type"] == "ack"


async def test_large_burst_may_take_longer_than_the_deadline_of_an_answer(
    running: Running,
) -> None:
    """The network needs longer than the deadline of an answer, and Redis answers."""
    async with (
        net_to_redis() as (_, net),
        running("resume", redis=f"redis://127.0.0.1:{net.port}") as server,
    ):
        await hears(server)
        net.up.rate = 2_000_000
        tail = b'"from":"ann","payload":"%b"}' % (b"x" * 60_000)
        broker = server.parts.broker
        stored = [broker.publish("red", tail) for _ in range(120)]
        assert await asyncio.gather(*stored) == list(range(1, 121))
