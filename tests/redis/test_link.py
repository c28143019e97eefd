"""One of a server's two connections to Redis is dead, and the other works."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from labserver.errors import BrokerDown
from labserver.processes import faults
from labserver.processes.faults import Proxy
from labserver.processes.ports import free_port
from labserver.redis import link as redis_link
from labserver.redis.commands import Call, Commands, answering, pool
from labserver.redis.embedded import embedded_redis
from labserver.redis.history import READ, Page
from labserver.server.server import LabServer
from labserver.server.tasks import Failures
from tests.conftest import DEADLINE, Peer, Running, eventually, peer


@asynccontextmanager
async def net_to_redis() -> AsyncIterator[tuple[str, Proxy]]:
    """Run a Redis behind a proxy; yields the URL of Redis, and the proxy."""
    port = free_port()
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
        # Only the link of one server goes through the proxy.
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
        # Nothing shows it: the connection stays open, and publishing works.
        for number in (2, 3):
            answer = await ann.ask(type="publish", room="red", payload=number)
            assert answer["seq"] == number
        await eventually(lambda: one.unready() is not None)
        net.thaw()
        assert [(await ann.until("message"))["seq"] for _ in range(2)] == [2, 3]
        await eventually(lambda: one.unready() is None)


async def test_next_link_does_not_await_what_the_broken_one_was_asked(
    running: Running,
) -> None:
    async with (
        net_to_redis() as (url, net),
        running("resume", redis=url) as server,
        peer(server) as ann,
    ):
        await hears(server)
        link = server.parts.broker.redis.node.link
        generation = link.generation
        link.connections = pool(f"redis://127.0.0.1:{net.port}")
        async with Redis.from_url(url) as redis:
            await redis.client_kill_filter(_type="pubsub")
        await eventually(lambda: link.generation > generation and not link.deaf)
        net.freeze()
        joining = asyncio.create_task(ann.join("red"))
        await eventually(lambda: bool(link.asked))
        net.reset()
        net.thaw()
        assert (await joining)["type"] == "joined"
        await eventually(lambda: not link.deaf)
        assert not link.asked


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
        # Only the commands of one server go through the proxy.
        commands = one.parts.broker.redis.node.commands
        commands.connections = pool(f"redis://127.0.0.1:{net.port}")
        async with Redis.from_url(url) as redis:
            await redis.client_kill_filter(_type="normal", skipme=True)
        await eventually(lambda: net.writers)  # the probe connects again
        await eventually(lambda: published(ann))
        net.freeze()
        await ann.send(type="publish", room="red", payload="nobody knows")
        # Messages of others still arrive, until the link misses its probe.
        said = await bob.ask(type="publish", room="red", payload="said")
        while (await ann.until("message"))["seq"] < said["seq"]:
            pass
        assert (await ann.until("error"))["code"] == "broker_down"
        net.thaw()
        await eventually(lambda: published(ann))


async def test_message_waits_until_its_room_is_caught_up_with(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running("broker") as server, peer(server) as ann:
        await hears(server)
        await ann.join("red")
        link = server.parts.broker.redis.node.link
        catching, heard = asyncio.Event(), list[str]()
        caught, right = link.again, link.heard

        async def again(rooms: Sequence[str]) -> None:
            await catching.wait()
            heard.append("caught up")
            await caught(rooms)

        async def hear(room: str, data: bytes) -> None:
            heard.append("message")
            await right(room, data)

        monkeypatch.setattr(link, "again", again)
        monkeypatch.setattr(link, "heard", hear)
        async with Redis.from_url(server.settings.redis) as redis:
            await redis.client_kill_filter(_type="pubsub")
            await eventually(lambda: bool(link.catching))
            await redis.publish("lab:{red}", b"other-replica")
            await redis.publish("lab:{red}", b"other-replica")
        catching.set()
        await eventually(lambda: len(heard) == 3)
        assert heard == ["caught up", "message", "message"]


async def test_one_failure_is_logged_once_while_it_lasts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with embedded_redis() as redis:
        async with Redis.from_url(redis.url) as client:
            await client.config_set("requirepass", "secret")
        commands = Commands(pool(redis.url), Failures())
        attempts = 0

        def broke() -> None:
            nonlocal attempts
            attempts += 1

        async def nothing(*arguments: object) -> None:
            pass

        link = redis_link.Link(
            pool(redis.url), commands, Failures(), nothing, nothing, broke=broke
        )
        await eventually(lambda: attempts > 2)
        await link.stop()
        await commands.stop()
    assert [each.message for each in caplog.records if "link to Redis" in each.message]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("stage", ["broker", "resume"])
@pytest.mark.parametrize("breaks", [False, True])
async def test_first_member_misses_nothing_that_is_published_during_its_join(
    breaks: bool, stage: str, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages arrive while the answer to the join is on its way; the link may break.

    If the link broke and there is no history, the client is told of a gap.
    """
    # No probe is under way when the join is sent: the join would wait behind it.
    monkeypatch.setattr(redis_link, "PROBE_INTERVAL", 60)
    monkeypatch.setattr(redis_link, "SILENCE", 60)
    async with (
        net_to_redis() as (url, net),
        running(stage, redis=url) as one,
        running(stage, redis=url) as two,
        peer(one) as ann,
        peer(two, "bob") as bob,
    ):
        await hears(one)
        # Only the commands of one server go through the proxy.
        node = one.parts.broker.redis.node
        node.commands.connections = pool(f"redis://127.0.0.1:{net.port}")
        async with Redis.from_url(url) as redis:
            await redis.client_kill_filter(_type="normal", skipme=True)
            await eventually(lambda: published(ann, "other"))
            await redis.script_load(answering(READ))  # saves a round trip
            await eventually(lambda: published(bob, "other"))
            assert net.writers
            # Redis gets ann's join, but the answer does not arrive.
            net.down.freeze()
            await ann.send(type="join", room="red", ref="join")
            await eventually(lambda: redis.exists("lab:{red}"))
            generation = node.link.generation
            if breaks:
                await redis.client_kill_filter(_type="pubsub")
            await eventually(lambda: published(bob, "red"))
            await eventually(lambda: node.link.generation == generation + breaks)
            await eventually(lambda: not node.link.asked)
            await eventually(lambda: published(bob, "red"))
            # When the link has heard this probe, it has heard the messages before it.
            node.link.unheard = math.inf
            await redis.publish(redis_link.channel_of(node.link.probe), "")
            await eventually(lambda: node.link.unheard < math.inf)
            net.down.thaw()
        assert (await ann.until("joined"))["seq"] == 0
        if breaks and stage == "broker":
            told = await ann.until("gap")
            assert (told["from"], told["to"]) == (1, 2)
            assert one.metrics.gone == 2
        else:
            got = [await ann.recv() for _ in range(2)]
            assert [(each["type"], each["seq"]) for each in got] == [
                ("message", 1),
                ("message", 2),
            ]


async def test_what_is_asked_after_the_end_is_answered(running: Running) -> None:
    async with running("resume") as server:
        await hears(server)
        broker = server.parts.broker
    stored = broker.publish("red", b'"from":"ann","payload":1}')
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(BrokerDown, match="closed"):
            await stored
        with pytest.raises(BrokerDown, match="closed"):
            await broker.read("red", None)
        with pytest.raises(BrokerDown, match="closed"):
            await broker.subscribe("red")


async def published(client: Peer, room: str = "red") -> bool:
    answer = await client.ask(type="publish", room=room, payload=0)
    return answer["type"] == "ack"


async def test_join_outlives_a_link_that_is_closed_while_it_is_written_to(
    running: Running, redis_url: str
) -> None:
    async with running("resume", redis=redis_url) as server:
        await hears(server)
        link = server.parts.broker.redis.node.link
        asking = asyncio.create_task(link.subscribe("red"))
        await asyncio.sleep(0)  # before Python 3.12 a task of redis-py writes next
        writer, link.connection._writer = link.connection._writer, None
        writer.close()
        await asking  # confirmed by the next link
        assert not link.asked


async def test_rooms_are_caught_up_with_together_after_a_break(
    running: Running, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = [f"room-{number}" for number in range(100)]
    batches = []
    execute = Commands._execute

    async def counted(self: Commands, batch: Sequence[Call]) -> list[Any]:
        read = [call for call in batch if call.source is READ]
        batches.append(sum(len(call.keys) // 2 for call in read))
        return await execute(self, batch)

    async with (
        running("resume", rooms_limit=0) as one,
        running("resume") as two,
        peer(one) as ann,
        peer(two, "bob") as bob,
    ):
        for room in rooms:
            await ann.join(room)
        link = one.parts.broker.redis.node.link
        connected, generation = asyncio.Event(), link.generation
        make = link.connections.make_connection

        def wait() -> AbstractConnection:
            if not connected.is_set():
                raise OSError("the messages come first")
            return make()

        monkeypatch.setattr(link.connections, "make_connection", wait)
        async with Redis.from_url(redis_url) as redis:
            await redis.client_kill_filter(_type="pubsub")
        await eventually(lambda: link.connection is None)
        for room in rooms:
            await bob.ask(type="publish", room=room, payload=room)
        monkeypatch.setattr(Commands, "_execute", counted)
        connected.set()
        heard = {(await ann.until("message"))["payload"] for _ in rooms}
        assert heard == set(rooms)
        assert link.generation == generation + 1
        assert max(batches) > 10, "each room cost a round trip"


async def test_room_that_cannot_be_caught_up_with_is_tried_again(
    running: Running, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        running("resume") as one,
        running("resume") as two,
        peer(one) as ann,
        peer(two, "bob") as bob,
    ):
        await ann.join("red")
        broker = one.parts.broker
        link, pages, failed = broker.redis.node.link, broker.histories.pages, []

        async def failing(*args: Any) -> list[Page]:
            if not failed:
                await bob.ask(type="publish", room="red", payload=1)
                failed.append(True)
                raise BrokerDown("once")
            return await pages(*args)

        monkeypatch.setattr(broker.histories, "pages", failing)
        monkeypatch.setattr(link, "heard", deaf)
        async with Redis.from_url(redis_url) as redis:
            await redis.client_kill_filter(_type="pubsub")
        assert (await ann.until("message"))["seq"] == 1
        assert failed
        assert link.failure is None


async def deaf(room: str, data: bytes) -> None:
    """Hear nothing: what a client gets was read."""
