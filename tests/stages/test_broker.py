"""The Redis broker when things go well, and when Redis does not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest
import redis as redis_client

from labserver.errors import BrokerDown
from labserver.judge.oracle import Oracle
from labserver.redis.commands import BATCH, TIMEOUT
from labserver.redis.embedded import embedded_redis
from labserver.server.server import LabServer
from labserver.stages import broker as broker_module
from labserver.stages.rooms import RoomsApplication
from tests.conftest import Peer, Running, eventually, peer
from tests.support.plain_http import post

pytestmark = pytest.mark.loops("uvloop", "asyncio")

Redis = redis_client.Redis


@pytest.fixture
async def own_redis() -> AsyncIterator[str]:
    """A Redis for one test, which may stop it."""
    async with embedded_redis() as redis:
        yield redis.url


def pid_of(url: str) -> int:
    with Redis.from_url(url) as connection:
        return int(connection.info("server")["process_id"])


def channels(redis: Redis) -> set[str]:
    """Return the rooms that a server is subscribed to."""
    names = {name.decode() for name in redis.pubsub_channels("lab:*")}
    return {name[5:-1] for name in names if not name.startswith("lab:{probe:")}


async def hear(server: LabServer) -> None:
    """Wait until a server hears its own probe through Redis."""
    await eventually(lambda: not server.parts.broker.deaf)


async def received(client: Peer, count: int) -> list[int]:
    return [(await client.until("message"))["seq"] for _ in range(count)]


def kill_subscribers(redis: Redis) -> None:
    redis.client_kill_filter(_type="pubsub")


async def test_replica_listens_to_the_rooms_of_its_members_only(
    running: Running, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "LINGER", 0.05)
    async with running("broker") as server, peer(server) as ann:
        await hear(server)
        await ann.join("red")
        await ann.join("blue")
        assert channels(redis) == {"red", "blue"}
        await ann.ask(type="publish", room="green", payload=1)
        assert channels(redis) == {"red", "blue"}
        await ann.ask(type="leave", room="red")
        await eventually(lambda: channels(redis) == {"blue"})
    await eventually(lambda: channels(redis) == set())


async def test_room_that_is_entered_again_at_once_stays_subscribed(
    running: Running, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "LINGER", 0.02)
    async with running("broker") as server, peer(server) as ann, peer(server) as bob:
        await hear(server)
        for _ in range(30):
            await ann.join("red")
            await bob.ask(type="publish", room="red", payload=1)
            await ann.until("message")
            await ann.ask(type="leave", room="red")
            await asyncio.sleep(0.01)  # about as long as the linger


@pytest.mark.parametrize("stage", ["broker", "resume"])
async def test_broken_link_is_made_anew_and_nothing_is_missed_silently(
    stage: str, running: Running, redis: Redis
) -> None:
    async with running(stage) as one, running(stage) as two:
        await hear(one)
        await hear(two)
        async with peer(one) as ann, peer(two) as bob:
            await ann.join("red")
            for _ in range(3):
                kill_subscribers(redis)
                await bob.ask(type="publish", room="red", payload="while it is cut")
            # The hole is noticed even if no further message comes.
            assert await accounted(ann, stage, 3) == [1, 2, 3]


async def accounted(client: Peer, stage: str, count: int) -> list[int]:
    """Return the seqs that a member got, or whose loss it was told, in that order."""
    seqs: list[int] = []
    while len(seqs) < count:
        message = await client.recv()
        if message["type"] == "gap":
            assert stage == "broker"  # no history to fill the hole from
            assert message["reason"] == "broker"
            seqs += range(message["from"], message["to"] + 1)
        else:
            seqs.append(message["seq"])
    return seqs


@pytest.mark.parametrize("stage", ["broker", "resume"])
async def test_one_message_that_never_arrives_is_noticed_at_the_next(
    stage: str, running: Running, redis: Redis
) -> None:
    async with running(stage) as server, peer(server) as ann, peer(server) as bob:
        await hear(server)
        await ann.join("red")
        link = server.parts.broker.redis.of("red").link
        heard, brought = link.heard, 0

        async def lose_the_second(room: str, data: bytes) -> None:
            nonlocal brought
            brought += 1
            if brought != 2:
                await heard(room, data)

        link.heard = lose_the_second
        for number in range(3):
            await bob.ask(type="publish", room="red", payload=number)
        assert await accounted(ann, stage, 3) == [1, 2, 3]


async def test_deaf_replica_is_not_ready_until_it_hears_again(
    running: Running, own_redis: str
) -> None:
    async with running("broker", redis=own_redis) as server:
        await hear(server)
        assert server.unready() is None
        pid = pid_of(own_redis)
        os.kill(pid, signal.SIGSTOP)
        try:
            await eventually(lambda: server.unready() is not None, within=10)
        finally:
            os.kill(pid, signal.SIGCONT)
        await eventually(lambda: server.unready() is None, within=10)


async def test_publish_while_redis_is_away_is_answered_with_broker_down(
    running: Running, own_redis: str
) -> None:
    async with running("resume", redis=own_redis) as server, peer(server) as ann:
        await hear(server)
        await ann.join("red")
        os.kill(pid_of(own_redis), signal.SIGKILL)
        answer = await ann.ask(type="publish", room="red", payload=1)
        assert (answer["type"], answer["code"]) == ("error", "broker_down")
        await ann.send(type="publish", room="red", payload=2)  # also without a ref
        assert (await ann.until("error"))["code"] == "broker_down"
        answer = await ann.join("blue")
        assert (answer["type"], answer["code"]) == ("error", "broker_down")
        assert "blue" not in server.hub.rooms
        assert (await ann.ask(type="ping"))["type"] == "pong"


@pytest.mark.parametrize("stage", ["broker", "resume"])
async def test_emptied_redis_begins_a_new_epoch_and_members_are_told(
    stage: str, running: Running, redis: Redis
) -> None:
    async with running(stage) as server, peer(server) as ann, peer(server) as bob:
        await hear(server)
        joined = await ann.join("red")
        for number in range(3):
            await bob.ask(type="publish", room="red", payload=number)
        assert await received(ann, 3) == [1, 2, 3]
        redis.flushall()
        await bob.ask(type="publish", room="red", payload="new")
        told = await ann.until("joined")
        assert told["recovered"] is False
        assert told["epoch"] != joined["epoch"]
        assert told["seq"] in (0, 1)
        if told["seq"] == 0:
            assert (await ann.recv())["seq"] == 1
        await bob.ask(type="publish", room="red", payload="next")
        assert (await ann.until("message"))["seq"] == 2
        assert server.metrics.epochs == 1


async def test_second_publish_with_the_same_key_is_the_first(
    running: Running, redis: Redis
) -> None:
    async with (
        running("resume") as one,
        running("resume") as two,
        peer(one) as ann,
        peer(two) as bob,
    ):
        await ann.join("red")
        first = await ann.ask(type="publish", room="red", payload=1, key="k")
        again = await bob.ask(type="publish", room="red", payload=1, key="k")
        other = await bob.ask(type="publish", room="red", payload=2, key="l")
        assert (first["seq"], again["seq"], other["seq"]) == (1, 1, 2)
        for key in redis.scan_iter("lab:{red}:key:*"):
            assert 0 < redis.ttl(key) <= 300


@pytest.mark.parametrize("without", [(), ("broker",)], ids=["redis", "local"])
async def test_key_belongs_to_its_user(
    without: tuple[str, ...], running: Running
) -> None:
    # Names and keys may contain any separator.
    said = [("ann", "order-17"), ("ann:order", "17"), ("ann", "order\u000017")]
    async with running("resume", without=without) as server:
        async with peer(server, "eve") as eve:
            for _, key in said:
                await eve.ask(type="publish", room="red", payload="mine", key=key)
        for number, (user, key) in enumerate(said, start=len(said) + 1):
            async with peer(server, user) as client:
                for _ in range(2):
                    answer = await client.ask(
                        type="publish", room="red", payload=1, key=key
                    )
                    assert (answer["type"], answer["seq"]) == ("ack", number)


async def test_room_that_nobody_was_in_costs_little_and_not_for_long(
    running: Running, redis: Redis
) -> None:
    rooms = 100
    async with running("resume") as server, peer(server) as ann:
        for number in range(rooms):
            for _ in range(2):
                answer = await ann.ask(
                    type="publish", room=f"room-{number}", payload="x" * 10_000
                )
            assert answer["seq"] == 2
        keys = list(redis.scan_iter("lab:*"))
        assert sum(redis.memory_usage(key) for key in keys) < 500 * rooms
        assert all(0 < redis.ttl(key) <= 300 for key in keys)
        # Once a client is told a position in a room, the room keeps later messages.
        epoch = (await ann.join("room-0"))["epoch"]
        await ann.ask(type="publish", room="room-0", payload="y" * 10_000)
        joined = await ann.join("room-0", after={"epoch": epoch, "seq": 2})
        assert (joined["recovered"], joined["seq"]) == (True, 3)
        joined = await ann.join("room-0", after={"epoch": epoch, "seq": 1})
        assert joined["recovered"] is False


@pytest.mark.parametrize("without", [(), ("broker",)], ids=["redis", "local"])
async def test_rooms_that_one_user_begins_are_bounded_over_all_its_connections(
    without: tuple[str, ...], running: Running
) -> None:
    async with (
        running("resume", without=without, rooms_limit=5, sse_port=0) as server,
        peer(server) as one,
        peer(server) as two,
        peer(server, "bob") as bob,
    ):
        await bob.join("lobby")
        said = [
            await client.ask(type="publish", room=f"{name}-{number}", payload=1)
            for number in range(10)
            for name, client in (("one", one), ("two", two))
        ]
        assert [each["type"] for each in said[:5]] == ["ack"] * 5
        refused = [each for each in said if each["type"] == "error"]
        assert len(refused) >= 14  # all but the tokens that come back meanwhile
        assert {each["code"] for each in refused} == {"rate_limited"}
        answer = await post(server, "another", 1)
        assert (answer.status, answer.body["code"]) == (429, "rate_limited")
        # Existing rooms cost no token, and other users have tokens of their own.
        for _ in range(20):
            for room in ("lobby", "one-0"):
                answer = await one.ask(type="publish", room=room, payload=1)
                assert answer["type"] == "ack"
        answer = await bob.ask(type="publish", room="bobs", payload=1)
        assert answer["type"] == "ack"


async def test_room_that_was_only_looked_into_does_not_stay_for_an_hour(
    running: Running, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "LINGER", 0.05)

    def ttl(room: str) -> float:
        return redis.pttl(f"lab:{{{room}}}") / 1000

    async with running("resume", history_ttl=100) as one, running("resume") as two:
        await hear(one)
        await hear(two)
        commands = one.parts.broker.redis.node.commands
        connection = commands.connection
        async with peer(one) as ann, peer(two) as bob:
            cursors = {}
            for room in ("seen", "said", "shared"):
                joined = await ann.join(room)
                cursors[room] = {"epoch": joined["epoch"], "seq": joined["seq"]}
            await bob.join("shared")
            await ann.ask(type="publish", room="said", payload=1)
            for room in ("seen", "said", "shared"):
                assert ttl(room) > 3600
                await ann.ask(type="leave", room=room)
            await eventually(lambda: 0 < ttl("seen") <= 100)
            assert ttl("said") > 3600
            assert ttl("shared") > 3600
            # Whoever comes back in time finds it as it was, and it stays again.
            again = await ann.join("seen", after=cursors["seen"])
            assert again["recovered"]
            assert ttl("seen") > 3600
            await bob.ask(type="leave", room="shared")
            await eventually(lambda: 0 < ttl("shared") <= 300)
            assert commands.connection is connection  # each answer was understood


async def test_publishes_of_one_tick_share_a_round_trip_and_keep_their_order(
    running: Running, redis: Redis
) -> None:
    async with running("resume") as server, peer(server) as ann, peer(server) as bob:
        await hear(server)
        await bob.join("red")
        before = redis.info("commandstats")["cmdstat_evalsha"]["calls"]
        for number in range(500):
            message = {
                "type": "publish",
                "room": "red",
                "payload": number,
                "ref": number,
            }
            await ann.socket.send(json.dumps(message))
        acks = [await ann.until("ack") for _ in range(500)]
        assert [ack["ref"] for ack in acks] == list(range(500))
        assert [ack["seq"] for ack in acks] == list(range(1, 501))
        assert await received(bob, 500) == list(range(1, 501))
        calls = redis.info("commandstats")["cmdstat_evalsha"]["calls"] - before
        assert calls < 400


async def test_publisher_is_not_read_while_too_many_messages_wait_for_the_broker(
    running: Running,
) -> None:
    limit = RoomsApplication.in_flight_limit
    async with running("rooms") as server, peer(server) as ann, peer(server) as bob:
        waiting: list[asyncio.Future[int]] = []

        def publish(*_: object) -> asyncio.Future[int]:
            waiting.append(asyncio.get_running_loop().create_future())
            return waiting[-1]

        server.parts.broker.publish = publish
        for number in range(limit + 10):
            await ann.send(type="publish", room="red", payload=number, ref=number)
        await eventually(lambda: len(waiting) >= limit)
        for _ in range(20):  # turns in which more would be read
            await bob.ask(type="ping")
        assert len(waiting) == limit
        for seq, stored in enumerate(waiting, start=1):
            stored.set_result(seq)
        await eventually(lambda: len(waiting) == limit + 10)
        for stored in waiting[limit:]:
            stored.set_result(limit)
        acks = [(await ann.until("ack"))["ref"] for _ in range(limit + 10)]
        assert acks == list(range(limit + 10))


async def test_script_that_redis_forgot_is_loaded_again(
    running: Running, redis: Redis
) -> None:
    async with running("resume") as server, peer(server) as ann:
        await ann.ask(type="publish", room="red", payload=1)
        redis.script_flush()
        answer = await ann.ask(type="publish", room="red", payload=2)
        assert (answer["type"], answer["seq"]) == ("ack", 2)


async def test_full_redis_stores_nothing_and_says_so(
    running: Running, own_redis: str
) -> None:
    async with running("resume", redis=own_redis) as server, peer(server) as ann:
        await hear(server)
        assert (await ann.join("red"))["seq"] == 0
        with Redis.from_url(own_redis) as redis:
            redis.config_set("maxmemory", 1)
            answer = await ann.ask(type="publish", room="red", payload=1)
            assert (answer["type"], answer["code"]) == ("error", "broker_down")
            redis.config_set("maxmemory", 0)
        answer = await ann.ask(type="publish", room="red", payload=2)
        assert answer["seq"] == 1


async def test_redis_that_became_a_read_only_replica_acknowledges_nothing(
    running: Running, own_redis: str
) -> None:
    async with running("resume", redis=own_redis) as server, peer(server) as ann:
        await hear(server)
        assert (await ann.ask(type="publish", room="red", payload=1))["seq"] == 1
        with Redis.from_url(own_redis) as redis:
            redis.replicaof("127.0.0.1", 1)  # a primary that does not exist
            answer = await ann.ask(type="publish", room="red", payload=2)
            assert (answer["type"], answer["code"]) == ("error", "broker_down")
            redis.replicaof("no", "one")
        answer = await ann.ask(type="publish", room="red", payload=3)
        assert (answer["type"], answer["seq"]) == ("ack", 2)


async def test_redis_that_is_promoted_again_numbers_in_an_epoch_of_its_own(
    running: Running, own_redis: str
) -> None:
    # As a replica it may have lost messages that it numbered itself. The run id stays.
    async with running("resume", redis=own_redis) as server, peer(server) as ann:
        await hear(server)
        joined = await ann.join("red")
        with Redis.from_url(own_redis) as redis:
            redis.replicaof("127.0.0.1", 1)
            answer = await ann.ask(type="publish", room="red", payload=1)
            assert (answer["type"], answer["code"]) == ("error", "broker_down")
            redis.replicaof("no", "one")
        await eventually(lambda: acknowledged(ann, 1))
        told = await ann.until("joined")
        assert told["recovered"]
        assert told["epoch"] != joined["epoch"]


async def acknowledged(client: Peer, seq: int) -> bool:
    answer = await client.ask(type="publish", room="red", payload=seq)
    return answer["type"] == "ack" and answer["seq"] == seq


async def test_redis_that_came_back_from_its_disk_goes_on_in_an_epoch_of_its_own(
    running: Running,
) -> None:
    # Redis writes before it answers; with "everysec" a busy disk would delay writes.
    on_disk = "--appendonly", "yes", "--appendfsync", "no"
    async with (
        embedded_redis(*on_disk) as redis,
        running("resume", redis=redis.url) as server,
        peer(server) as ann,
        peer(server, "bob") as bob,
    ):
        await hear(server)
        joined = await ann.join("red")
        assert await acknowledged(bob, 1)
        assert await received(ann, 1) == [1]
        redis.stop()
        await redis.start()
        await eventually(lambda: acknowledged(bob, 2))
        # Both epochs share the messages on its disk, so nothing was missed.
        told = await ann.until("joined")
        assert told["recovered"]
        assert told["epoch"] != joined["epoch"]
        assert (await ann.recv())["seq"] == 2
        after = {"epoch": joined["epoch"], "seq": 0}
        assert (await ann.join("red", after=after))["recovered"]
        assert await received(ann, 2) == [1, 2]


async def test_member_that_joins_during_a_takeover_is_told_its_position(
    running: Running, redis: Redis
) -> None:
    async with (
        running("resume") as server,
        peer(server) as ann,
        peer(server, "bob") as bob,
    ):
        await hear(server)
        await ann.join("red")
        await ann.ask(type="publish", room="red", payload=1)
        feed = server.parts.broker.feeds["red"]
        await eventually(lambda: feed.seq == 1)
        # Three messages are numbered, as bob reads, but they never arrive.
        redis.hset("lab:{red}", "seq", 4)
        joining = asyncio.create_task(bob.join("red"))
        await eventually(lambda: feed.moved is not None)
        # The server that takes over never had them.
        redis.hset("lab:{red}", mapping={"seq": 1, "by": "another"})
        assert (await ann.ask(type="publish", room="red", payload=2))["seq"] == 2
        oracle = Oracle()
        oracle.saw(await joining)
        for seq in (3, 4, 5):
            assert (await publish_seq(ann)) == seq
        while oracle.cursor("red") is None or oracle.cursor("red")["seq"] < 5:
            oracle.saw(await bob.recv())
        assert oracle.verdict.clean, str(oracle.verdict)
        assert oracle.cursor("red")["epoch"] == feed.epoch


async def publish_seq(client: Peer) -> int:
    return (await client.ask(type="publish", room="red", payload=0))["seq"]


async def test_frozen_redis_makes_no_request_wait_for_earlier_ones(
    running: Running, own_redis: str
) -> None:
    async with running("resume", redis=own_redis) as server:
        await hear(server)
        pid = pid_of(own_redis)
        os.kill(pid, signal.SIGSTOP)
        try:
            # More rooms than fit into one round trip.
            rooms = [f"room-{number}" for number in range(5 * BATCH)]
            publish = server.parts.broker.publish
            asked = time.monotonic()
            stored = [publish(room, b'"from":"ann","payload":1}') for room in rooms]
            await asyncio.wait(stored)
            assert all(isinstance(each.exception(), BrokerDown) for each in stored)
            spent = time.monotonic() - asked
            assert spent < 2 * TIMEOUT + 1
        finally:
            os.kill(pid, signal.SIGCONT)
