"""With ``confirm_replicas`` an acknowledged message survives its primary."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest
from redis.asyncio import Redis

from labserver.judge.oracle import Oracle
from labserver.processes import faults
from labserver.processes.faults import Proxy
from labserver.processes.ports import free_ports
from labserver.redis import commands
from labserver.redis.embedded import EmbeddedRedis, embedded_redis
from tests.conftest import Peer, Running, eventually, peer

pytestmark = pytest.mark.timeout(30)


@dataclass
class Pair:
    """A primary and its replica; both proxies lead to whichever is the primary."""

    primary: EmbeddedRedis
    replica: EmbeddedRedis
    ports: list[int]
    net: Proxy
    other: Proxy

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.net.port}"

    async def copied(self) -> bool:
        """Return whether the replica confirms that it has all so far."""
        async with Redis.from_url(
            self.primary.url, single_connection_client=True
        ) as redis:
            await redis.set("copied", 1)  # WAIT is about the connection's own writes
            return bool(await redis.wait(1, 1000))

    async def lose_the_replica(self) -> None:
        """Let the replica get nothing more, and cut its connection."""
        await eventually(self.copied)
        self.replica.signal(signal.SIGSTOP)
        async with Redis.from_url(self.primary.url) as redis:
            # What the kernel holds for the replica would reach it after all.
            await redis.client_kill_filter(_type="replica")

    async def fail_over(self) -> None:
        """Kill the primary, and promote the replica with what it has."""
        self.primary.stop()
        self.replica.signal(signal.SIGCONT)
        async with Redis.from_url(self.replica.url) as redis:
            await redis.replicaof("NO", "ONE")
        for net in (self.net, self.other):
            net.target = ("127.0.0.1", self.ports[1])
            net.reset()
            net.thaw()


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    ports = free_ports(2)
    follow = ("--replicaof", f"127.0.0.1 {ports[0]}")
    at_once = ("--repl-diskless-sync-delay", "0")
    async with (
        embedded_redis("--port", str(ports[0]), *at_once) as primary,
        embedded_redis("--port", str(ports[1]), *at_once, *follow) as replica,
        faults.proxy("127.0.0.1", ports[0]) as net,
        faults.proxy("127.0.0.1", ports[0]) as other,
    ):
        both = Pair(primary, replica, ports, net, other)
        await eventually(both.copied, within=15)
        yield both


async def say(ann: Peer, number: int) -> dict[str, object]:
    return await ann.ask(type="publish", room="red", payload=number, key=str(number))


async def acknowledged(ann: Peer, number: int) -> bool:
    return (await say(ann, number))["type"] == "ack"


async def test_acknowledged_message_survives_its_primary(running: Running) -> None:
    async with (
        pair() as redis,
        running("resume", redis=redis.url, confirm_replicas=1) as server,
        peer(server) as ann,
        peer(server, "bob") as bob,
    ):
        oracle = Oracle()
        oracle.saw(await bob.join("red"))
        for number in range(20):
            assert (await say(ann, number))["seq"] == number + 1
        await redis.fail_over()
        after = {"epoch": oracle.cursor("red")["epoch"], "seq": 0}

        async def back() -> bool:
            return (await ann.join("red", after=after))["type"] == "joined"

        await eventually(back, within=15)
        kept = [await ann.until("message") for _ in range(20)]
        assert [each["payload"] for each in kept] == list(range(20))


async def test_message_that_no_replica_has_is_not_acknowledged(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The members have it by then, and are told when it is gone."""
    async with (
        pair() as redis,
        running("resume", redis=redis.url, confirm_replicas=1) as server,
        peer(server) as ann,
        peer(server, "bob") as bob,
    ):
        before = await bob.join("red")
        assert (await say(ann, 1))["type"] == "ack"
        await redis.lose_the_replica()
        monkeypatch.setattr(commands, "CONFIRM", 0.2)
        # The answer to a repeated publish waits for replicas as well.
        for _ in range(2):
            answer = await say(ann, 2)
            assert answer["code"] == "broker_down"
            assert "0 of 1 replicas" in answer["detail"]
        # A join has nothing to confirm, and does not wait.
        async with asyncio.timeout(5):
            assert (await ann.ask(type="join", room="green"))["type"] == "joined"
        got = [await bob.until("message") for _ in range(2)]
        assert [each["payload"] for each in got] == [1, 2]
        await redis.fail_over()
        told = await bob.until("joined")
        assert not told["recovered"] and told["epoch"] != before["epoch"]
        # The new primary has no replica, until one follows it.
        assert (await say(ann, 2))["type"] == "error"
        async with embedded_redis("--replicaof", f"127.0.0.1 {redis.ports[1]}"):
            await eventually(partial(acknowledged, ann, 2), within=15)


async def test_tail_that_only_its_publishers_server_knew_is_told_to_all(
    running: Running,
) -> None:
    """Bob never got it, and the room's epoch could go on for him without a word."""
    async with (
        pair() as redis,
        running("resume", redis=redis.url) as one,
        running("resume", redis=f"redis://127.0.0.1:{redis.other.port}") as two,
        peer(one) as ann,
        peer(two, "bob") as bob,
    ):
        await bob.join("red")
        for number in range(3):
            assert (await say(ann, number))["type"] == "ack"
            await bob.until("message")
        await redis.lose_the_replica()
        redis.other.freeze()
        for number in (3, 4):
            assert (await say(ann, number))["type"] == "ack"
        await redis.fail_over()

        async def told() -> bool:
            return not (await bob.until("joined"))["recovered"]

        await eventually(told, within=15)
        assert (await bob.join("red", after=None))["seq"] == 3
