"""Rooms over a Redis Cluster: every slot, a primary that dies, a slot that moves."""

from __future__ import annotations

import asyncio
import math
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from chaos.redis_cluster import RedisCluster, redis_cluster
from labserver.errors import BrokerDown, RedisMissing
from labserver.judge.oracle import Oracle, lost
from labserver.redis.commands import pool
from labserver.redis.nodes import ClusterNodes, _range, _ranges, seeds_of
from labserver.redis.reach import check
from labserver.server.server import LabServer
from tests.conftest import Peer, Running, eventually, peer

pytestmark = [pytest.mark.long, pytest.mark.timeout(90)]


@asynccontextmanager
async def two_replicas(
    running: Running, cluster: RedisCluster
) -> AsyncIterator[tuple[LabServer, LabServer]]:
    async with (
        running("resume", redis=cluster.url) as one,
        running("resume", redis=cluster.url) as two,
    ):
        for server in (one, two):
            nodes = server.parts.broker.redis.nodes
            await eventually(
                lambda nodes=nodes: (
                    len(nodes) == 3 and not any(n.link.deaf for n in nodes.values())
                )
            )
        yield one, two


@asynccontextmanager
async def ann_and_bob(
    running: Running,
) -> AsyncIterator[tuple[RedisCluster, LabServer, Peer, Peer]]:
    """Run a cluster and two servers; yields the cluster, bob's server, ann and bob."""
    async with (
        redis_cluster() as cluster,
        two_replicas(running, cluster) as (one, two),
        peer(one) as ann,
        peer(two, "bob") as bob,
    ):
        yield cluster, two, ann, bob


async def publish(ann: Peer, room: str, number: int) -> int:
    """Publish with a key until it is acknowledged; return the seq."""
    while True:
        answer = await ann.ask(
            type="publish", room=room, payload=number, key=f"{room} {number}"
        )
        if answer["type"] == "ack":
            return answer["seq"]
        assert answer["code"] == "broker_down"
        await asyncio.sleep(0.05)


async def promoted(cluster: RedisCluster, room: str, primary: object) -> None:
    async def changed() -> bool:
        return await cluster.owner(room) is not primary

    await eventually(changed, within=30)


async def test_rooms_of_all_slots_are_carried(running: Running) -> None:
    rooms = [f"room-{number}" for number in range(30)]
    async with redis_cluster() as cluster, two_replicas(running, cluster) as (one, two):
        owners = {(await cluster.owner(room)).port for room in rooms}
        assert len(owners) == 3
        async with peer(one) as ann, peer(two, "bob") as bob:
            for room in rooms:
                await bob.join(room)
            for number in range(3):
                for room in rooms:
                    assert await publish(ann, room, number) == number + 1
            heard = [await bob.until("message") for _ in range(3 * len(rooms))]
            for room in rooms:
                said = [each["payload"] for each in heard if each["room"] == room]
                assert said == [0, 1, 2]
        async with peer(two, "bob") as bob:
            # A client that comes back gets what it missed, on either server.
            for room in rooms:
                joined = await bob.ask(type="join", room=room)
                after = {"epoch": joined["epoch"], "seq": 1}
                assert (await bob.join(room, after=after))["recovered"]
                assert [(await bob.recv())["seq"] for _ in range(2)] == [2, 3]


async def test_dead_primary_costs_nothing_that_its_replica_had(
    running: Running,
) -> None:
    async with redis_cluster() as cluster, two_replicas(running, cluster) as (one, two):
        async with peer(one) as ann, peer(two, "bob") as bob, peer(one, "eve") as eve:
            oracles = {bob: Oracle(), eve: Oracle()}
            for member, oracle in oracles.items():
                oracle.saw(await member.join("red"))
            first = [await publish(ann, "red", number) for number in range(100)]
            for member, oracle in oracles.items():
                await member.hear_until(oracle, "red", first[-1])
            places = {
                member: oracle.cursor("red") for member, oracle in oracles.items()
            }
            primary = await cluster.owner("red")
            async with Redis.from_url(primary.url) as redis:
                await redis.wait(1, 5000)  # until the replica has everything
            primary.stop()
            second = [await publish(ann, "red", number) for number in range(100, 200)]
            assert await cluster.owner("red") is not primary
            assert len({*first, *second}) == 200  # no seq twice
            for member, oracle in oracles.items():
                await member.hear_until(oracle, "red", second[-1])
                assert oracle.verdict.clean and not oracle.verdict.gaps
                assert lost(oracle, "red", first + second) == []
                assert oracle.cursor("red")["epoch"] != places[member]["epoch"]
        async with peer(two, "bob") as bob:
            # A cursor from before the death is still valid.
            joined = await bob.join("red", after=places[eve] | {"seq": 90})
            assert joined["recovered"]
            missed = [(await bob.recv())["seq"] for _ in range(110)]
            assert missed == list(range(91, 201))


async def test_tail_that_the_replica_never_had_is_told_and_not_numbered_again(
    running: Running,
) -> None:
    """Redis answers before it replicates, so it may lose acknowledged messages."""
    async with ann_and_bob(running) as (cluster, two, ann, bob):
        oracle = Oracle()
        oracle.saw(await bob.join("red"))
        kept = [await publish(ann, "red", number) for number in range(10)]
        primary = await cluster.owner("red")
        replica = cluster.replicas[cluster.primaries.index(primary)]
        async with Redis.from_url(primary.url) as redis:
            await redis.wait(1, 5000)
            replica.signal(signal.SIGSTOP)
            await redis.client_kill_filter(_type="replica")
        try:
            tail = [await publish(ann, "red", number) for number in range(10, 15)]
            await bob.hear_until(oracle, "red", tail[-1])
            before = oracle.cursor("red")
            primary.stop()
        finally:
            replica.signal(signal.SIGCONT)
        await promoted(cluster, "red", primary)
        later = [await publish(ann, "red", number) for number in range(20, 25)]
        assert later[0] == kept[-1] + 1  # the new primary does not know the tail ...
        told = await bob.until("joined")
        assert told["recovered"] is False  # ... and the members are told
        assert told["epoch"] != before["epoch"]
        # The new message with an old number is not taken for the old message.
        assert not (await bob.join("red", after=before))["recovered"]


async def test_slot_that_moves_is_followed(running: Running) -> None:
    async with ann_and_bob(running) as (cluster, two, ann, bob):
        oracle = Oracle()
        oracle.saw(await bob.join("red"))
        seqs = [await publish(ann, "red", number) for number in range(20)]
        source = await cluster.owner("red")
        target = next(each for each in cluster.primaries if each is not source)
        await cluster.move(source, target, "red")
        seqs += [await publish(ann, "red", number) for number in range(20, 40)]
        assert seqs == list(range(1, 41))
        await bob.hear_until(oracle, "red", 40)
        assert oracle.verdict.clean and not oracle.verdict.gaps


async def test_server_that_gave_away_the_slot_of_its_probe_is_heard(
    running: Running,
) -> None:
    async with ann_and_bob(running) as (cluster, two, ann, bob):
        await bob.join("red")
        source = await cluster.owner("red")
        target = next(each for each in cluster.primaries if each is not source)
        link = two.parts.broker.redis.of("red").link
        generation = link.generation
        await cluster.move(source, target, link.probe)
        await eventually(lambda: link.generation > generation)
        link.unheard = math.inf
        await eventually(lambda: link.unheard < math.inf, within=15)
        seq = await publish(ann, "red", 1)
        assert (await bob.until("message"))["seq"] == seq


async def test_room_whose_slot_had_no_owner_for_a_while_is_subscribed_again(
    running: Running,
) -> None:
    async with (
        redis_cluster() as cluster,
        two_replicas(running, cluster) as (one, two),
        peer(one) as ann,
        peer(two, "bob") as bob,
    ):
        await bob.join("red")
        source = await cluster.owner("red")
        target = next(each for each in cluster.primaries if each is not source)
        number = cluster.primaries.index(source)
        slots = (16384 * number // 3, 16384 * (number + 1) // 3 - 1)
        for server in cluster.servers:
            await server.ask("CLUSTER", "DELSLOTSRANGE", *slots)

        def nobody_s() -> bool:
            owners = [server.parts.broker.redis.owners for server in (one, two)]
            return not any(each[slots[0]] for each in owners)

        async def taken() -> bool:
            try:
                await target.ask("CLUSTER", "ADDSLOTSRANGE", *slots)
            except ResponseError:  # not all servers of the cluster know the move yet
                await target.ask("CLUSTER", "DELSLOTSRANGE", *slots)
                return False
            return True

        await eventually(nobody_s, within=15)
        await eventually(taken)
        seq = await publish(ann, "red", 1)
        assert (await bob.until("message"))["seq"] == seq


@pytest.mark.parametrize("preferred", ["hostname", "unknown-endpoint"])
async def test_server_without_a_name_is_at_the_address_that_answered(
    preferred: str, running: Running
) -> None:
    """Redis answers ``?`` for a host name that is not set, or nil if it may."""
    async with redis_cluster() as cluster:
        for server in cluster.servers:
            option = "cluster-preferred-endpoint-type"
            await server.ask("CONFIG", "SET", option, preferred)
        async with (
            two_replicas(running, cluster) as (one, two),
            peer(one) as ann,
            peer(two, "bob") as bob,
        ):
            for room in ("red", "green", "blue"):
                await bob.join(room)
                seq = await publish(ann, room, 1)
                assert (await bob.until("message"))["seq"] == seq


async def test_server_of_a_cluster_that_is_nearly_full_empties_histories(
    running: Running,
) -> None:
    most = 16 * 2**20
    any_rate = partial(running, message_rate_limit=0.0)
    async with ann_and_bob(any_rate) as (cluster, two, ann, bob):
        for server in cluster.servers:
            await server.ask("CONFIG", "SET", "maxmemory", most)
        rooms = [f"room-{number}" for number in range(60)]
        for room in rooms:
            await bob.join(room)
        for number in range(4 * 3 * most // 60_000):
            room, payload = rooms[number % len(rooms)], "x" * 60_000
            answer = await bob.ask(type="publish", room=room, payload=payload)
            assert answer["type"] == "ack"
        assert await publish(ann, "lobby", 1) == 1


async def test_cluster_that_is_not_there_is_told() -> None:
    with pytest.raises(RedisMissing, match="no Redis answers at 127.0.0.1:2"):
        await check("redis+cluster://127.0.0.1:1,127.0.0.1:2")


def test_url_names_several_servers_of_a_cluster() -> None:
    seeds, url_of = seeds_of("rediss+cluster://ann:secret@one:7000,two?ssl_ca_certs=ca")
    assert seeds == ["one:7000", "two:6379"]
    assert url_of("three:7001") == "rediss://ann:secret@three:7001?ssl_ca_certs=ca"


def test_server_may_have_an_ipv6_address() -> None:
    seeds, url_of = seeds_of("redis+cluster://[::1]:7000,[fe80::1]")
    assert seeds == ["[::1]:7000", "[fe80::1]:6379"]
    owner = [b"::1", 7001, b"id", []]
    assert _range([0, 1, owner], seeds[0]) == (0, 1, "[::1]:7001")
    for nameless in (b"", b"?", None):
        unnamed = [nameless, 7002, b"id", []]
        assert _range([2, 3, unnamed], seeds[1]) == (2, 3, "[fe80::1]:7002")
    addressed = [b"?", 7002, b"id", [b"ip", b"fe80::2"]]
    assert _range([2, 3, addressed], seeds[1]) == (2, 3, "[fe80::2]:7002")
    assert pool(url_of("[::1]:7001")).connection_kwargs["host"] == "::1"


async def test_server_that_closes_while_it_is_asked_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """uvloop raises RuntimeError; a simulated world found it (seed 69)."""

    async def closed(self: Redis, *command: str) -> None:
        raise RuntimeError("unable to perform operation; the handler is closed")

    monkeypatch.setattr(Redis, "execute_command", closed)
    with pytest.raises(BrokerDown, match="no server of the Redis cluster answers"):
        await _ranges(["127.0.0.1:1"], lambda address: f"redis://{address}")


class QuietLink:
    """A link that only notes its rooms, and lets something happen meanwhile."""

    probe = "probe"

    def __init__(self, **rooms: None) -> None:
        self.rooms: dict[str, object] = dict(rooms)
        self.meanwhile = lambda: None

    async def adopt(self, room: str, confirmed: object) -> None:
        self.rooms[room] = confirmed
        self.meanwhile()

    async def unsubscribe(self, room: str) -> None:
        self.rooms.pop(room, None)


async def test_room_that_is_let_go_of_while_others_move_stays_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise nobody would ever unsubscribe it at its new owner."""

    async def ranges(*_: object) -> list[tuple[int, int, str]]:
        return [(0, 16383, "b:1")]

    async def stop() -> None:
        pass

    monkeypatch.setattr("labserver.redis.nodes._ranges", ranges)
    nodes = ClusterNodes("redis+cluster://a:1", Counter(), None, None, 0)
    old, new = QuietLink(one=None, two=None), QuietLink()
    links = {"a:1": old, "b:1": new}
    nodes.nodes = {
        at: SimpleNamespace(link=link, stop=stop) for at, link in links.items()
    }
    nodes.owners = ["a:1"] * 16384
    new.meanwhile = lambda: old.rooms.pop("two", None)
    await nodes._look()
    assert new.rooms.keys() == {"one"}
