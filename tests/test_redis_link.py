"""One way to Redis is dead and the other works: who is deaf, and who is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from conftest import Peer, Running, eventually, peer
from redis.asyncio import Redis
from redis_cluster import free_ports

from labserver import faults
from labserver.embedded import embedded_redis
from labserver.faults import Proxy
from labserver.redis_commands import pool
from labserver.server import LabServer


@asynccontextmanager
async def net_to_redis() -> AsyncIterator[tuple[str, Proxy]]:
    """Run a Redis; the value is its URL, and a network between it and who asks."""
    (port,) = free_ports(1)
    async with (
        embedded_redis("--port", str(port)) as redis,
        faults.proxy("127.0.0.1", port) as net,
    ):
        yield redis.url, net


async def hears(server: LabServer) -> None:
    await eventually(lambda: not server.parts.broker.deaf)


async def test_silent_link_is_noticed_though_commands_work(running: Running) -> None:
    async with (
        net_to_redis() as (url, net),
        running("resume", redis=url) as one,
        running("resume", redis=url) as two,
        peer(one) as ann,
        peer(two, "bob") as bob,
    ):
        await hears(one)
        # The link of one server, and nothing else, goes by way of the network.
        link = one.parts.broker.redis.node.link
        generation = link.generation
        link.connections = pool(f"redis://127.0.0.1:{net.port}")
        async with Redis.from_url(url) as redis:
            await redis.client_kill_filter(_type="pubsub")
        await eventually(lambda: link.generation > generation and not link.deaf)
        await ann.join("red")
        assert (await bob.ask(type="publish", room="red", payload=1))["seq"] == 1
        assert (await ann.until("message"))["seq"] == 1
        net.freeze()
        # Nobody is told: the connection stands, and publishing goes on.
        for number in (2, 3):
            answer = await ann.ask(type="publish", room="red", payload=number)
            assert answer["seq"] == number
        await eventually(lambda: one.unready() is not None)
        net.thaw()
        assert [(await ann.until("message"))["seq"] for _ in range(2)] == [2, 3]
        await eventually(lambda: one.unready() is None)


async def test_silent_commands_are_answered_though_the_link_works(
    running: Running,
) -> None:
    async with (
        net_to_redis() as (url, net),
        running("resume", redis=url) as one,
        running("resume", redis=url) as two,
        peer(one) as ann,
        peer(two, "bob") as bob,
    ):
        await hears(one)
        await ann.join("red")
        # The commands of one server, and nothing else, go by way of the network.
        commands = one.parts.broker.redis.node.commands
        commands.connections = pool(f"redis://127.0.0.1:{net.port}")
        async with Redis.from_url(url) as redis:
            await redis.client_kill_filter(_type="normal", skipme=True)
        await eventually(lambda: net.writers)  # the probe connects again
        await eventually(lambda: published(ann))
        net.freeze()
        answer = await ann.ask(type="publish", room="red", payload="nobody knows")
        assert (answer["type"], answer["code"]) == ("error", "broker_down")
        # What the others say still comes.
        said = await bob.ask(type="publish", room="red", payload="said")
        while (await ann.until("message"))["seq"] < said["seq"]:
            pass
        net.thaw()
        await eventually(lambda: published(ann))


async def published(client: Peer) -> bool:
    answer = await client.ask(type="publish", room="red", payload=0)
    return answer["type"] == "ack"
