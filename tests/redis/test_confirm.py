"""With ``confirm_replicas`` an acknowledged message survives its primary."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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


class Pair:
    """A primary and its replica; the proxy leads to whichever is the primary."""

    def __init__(
        self, primary: EmbeddedRedis, replica: EmbeddedRedis, ports: list[int]
    ) -> None:
        self.primary, self.replica, self.ports = primary, replica, ports
        self.net: Proxy

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.net.port}"

    async def follows(self) -> bool:
        async with Redis.from_url(self.replica.url) as redis:
            return (await redis.info("replication"))["master_link_status"] == "up"

    async def fail_over(self) -> None:
        """Kill the primary, and promote the replica with what it has."""
        self.primary.stop()
        self.replica.signal(signal.SIGCONT)
        async with Redis.from_url(self.replica.url) as redis:
            await redis.replicaof("NO", "ONE")
        self.net.target = ("127.0.0.1", self.ports[1])
        self.net.reset()


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    ports = free_ports(2)
    follow = ("--replicaof", f"127.0.0.1 {ports[0]}")
    at_once = ("--repl-diskless-sync-delay", "0")
    async with (
        embedded_redis("--port", str(ports[0]), *at_once) as primary,
        embedded_redis("--port", str(ports[1]), *at_once, *follow) as replica,
        faults.proxy("127.0.0.1", ports[0]) as net,
    ):
        both = Pair(primary, replica, ports)
        both.net = net
        await eventually(both.follows, within=15)
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
    monkeypatch.setattr(commands, "CONFIRM", 0.2)
    async with (
        pair() as redis,
        running("resume", redis=redis.url, confirm_replicas=1) as server,
        peer(server) as ann,
        peer(server, "bob") as bob,
    ):
        before = await bob.join("red")
        assert (await say(ann, 1))["type"] == "ack"
        redis.replica.signal(signal.SIGSTOP)
        async with Redis.from_url(redis.primary.url) as primary:
            # What the kernel holds for the replica would reach it after all.
            await primary.client_kill_filter(_type="replica")
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
