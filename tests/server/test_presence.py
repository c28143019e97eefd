"""Presence: correct over replicas and deaths, and without storms of messages."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import cbor2
import pytest
import redis as redis_client
from websockets.asyncio.client import connect

from chaos.redis_cluster import redis_cluster
from labserver.client import Backoff, Client
from labserver.contract import wire
from labserver.contract.tokens import issue
from labserver.judge.oracle import Oracle
from labserver.judge.world import connection_of
from labserver.processes.cluster import running_cluster
from labserver.redis import presence as redis_presence
from labserver.redis.embedded import EmbeddedRedis, embedded_redis
from labserver.server import presence
from labserver.server.connection import LabConnection
from labserver.server.presence import NOBODY, Roster, change, picture
from labserver.server.server import LabServer
from tests.conftest import DEADLINE, SECRET, Peer, Running, eventually, peer

Redis = redis_client.Redis
KEY = "lab:{red}:presence"
WORLDS = [("rooms", ()), ("resume", ()), ("resume", ("broker",))]
EVERYWHERE = pytest.mark.parametrize(
    ("stage", "without"), WORLDS, ids=["rooms", "redis", "local"]
)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """All intervals of presence are ten times shorter, in the same proportions."""
    for name in ("INTERVAL", "REFRESH"):
        monkeypatch.setattr(presence, name, getattr(presence, name) / 10)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """No more than three people are named."""
    monkeypatch.setattr(presence, "NAMED_LIMIT", 3)
    monkeypatch.setattr(redis_presence, "NAMED_LIMIT", 3)
    return 3


@pytest.fixture
async def own_redis() -> AsyncIterator[EmbeddedRedis]:
    async with embedded_redis() as redis:
        yield redis


class View:
    """The people in a room as one client knows them from the server's messages."""

    def __init__(self, client: Peer) -> None:
        self.client = client
        self.told: list[dict[str, Any]] = []
        self.names: dict[str, str] | None = None
        self.count = 0

    def saw(self, message: dict[str, Any]) -> None:
        if message["type"] not in ("present", "presence"):
            return
        self.told.append(message)
        self.count = message["count"]
        if message["type"] == "present":
            clients = message.get("clients")
            self.names = None if clients is None else named(clients)
        elif "joined" not in message:
            self.names = None
        else:
            joined, left = named(message["joined"]), named(message["left"])
            assert self.names is not None, "changes of what was never told"
            assert not joined.keys() & self.names.keys()
            assert left.keys() <= self.names.keys()
            self.names |= joined
            for gone in left:
                del self.names[gone]
        assert self.names is None or len(self.names) == self.count

    async def until(self, *users: str) -> None:
        """Read until exactly these users are in the room."""
        while self.users() != sorted(users):
            self.saw(await self.client.recv())

    async def until_count(self, count: int) -> None:
        while self.count != count:
            self.saw(await self.client.recv())

    def users(self) -> list[str]:
        return sorted((self.names or {}).values())

    def mentioned(self) -> set[str]:
        """Return the users that any message named."""
        lists = [
            each.get(key, [])
            for each in self.told
            for key in ("clients", "joined", "left")
        ]
        return {person["user"] for people in lists for person in people}


def named(people: list[dict[str, str]]) -> dict[str, str]:
    return {person["id"]: person["user"] for person in people}


async def present(client: Peer, room: str = "red") -> View:
    """Join with presence; return what the client knows after its ``present``."""
    assert (await client.join(room, presence=True))["type"] == "joined"
    view = View(client)
    while not view.told:
        view.saw(await client.recv())
    assert view.told[0]["type"] == "present"
    return view


# Messages about people


@EVERYWHERE
async def test_member_with_presence_sees_the_others_and_is_seen(
    stage: str, without: tuple[str, ...], running: Running, hurried: None
) -> None:
    async with running(stage, without=without) as server, peer(server) as ann:
        view = await present(ann)
        assert view.names == {ann.hello["id"]: "ann"}
        async with peer(server, "bob") as bob:
            other = await present(bob)
            assert other.names == {ann.hello["id"]: "ann", bob.hello["id"]: "bob"}
            await view.until("ann", "bob")
        await view.until("ann")
        await eventually(lambda: list(server.attendance.audiences) == ["red"])
    assert not server.attendance.audiences


@EVERYWHERE
async def test_member_without_presence_is_neither_seen_nor_told(
    stage: str, without: tuple[str, ...], running: Running, hurried: None
) -> None:
    async with (
        running(stage, without=without) as server,
        peer(server) as ann,
        peer(server, "bob") as bob,
        peer(server, "eve") as eve,
    ):
        await eve.join("red")
        view = await present(ann)
        await present(bob)
        await view.until("ann", "bob")
        assert "eve" not in view.mentioned()
        assert await eve.heard() == []


@EVERYWHERE
async def test_who_comes_while_the_broker_is_asked_is_owed_the_whole_picture(
    stage: str, without: tuple[str, ...], running: Running, hurried: None
) -> None:
    async with (
        running(stage, without=without) as server,
        peer(server) as ann,
        peer(server, "bob") as bob,
    ):
        here, asked, go_on = server.attendance.here, asyncio.Event(), asyncio.Event()

        async def slow(*question: Any) -> Roster:
            answer = await here(*question)
            asked.set()
            await go_on.wait()
            return answer

        server.attendance.here = slow
        await ann.join("red", presence=True)
        await asked.wait()
        await bob.join("red", presence=True)
        go_on.set()
        for client in (ann, bob):
            view = View(client)  # which cannot make anything of changes only
            await view.until("ann", "bob")


async def leaves(server: LabServer, bob: Peer) -> None:
    assert (await bob.ask(type="leave", room="red"))["type"] == "left"


async def is_gone(server: LabServer, bob: Peer) -> None:
    bob.socket.transport.abort()


async def joins_without(server: LabServer, bob: Peer) -> None:
    await bob.join("red")


async def loses_the_room(server: LabServer, bob: Peer) -> None:
    await bob.send(type="refresh", token=issue(SECRET, "bob", ["blue"]))
    await bob.until("left")


async def is_ended(server: LabServer, bob: Peer) -> None:
    await bob.send(type="refresh", token="bad")
    assert await bob.closed() == 4401


@pytest.mark.parametrize(
    "how", [leaves, is_gone, joins_without, loses_the_room, is_ended]
)
async def test_every_way_to_leave_is_told(
    how: Any, running: Running, hurried: None
) -> None:
    async with (
        running("resume") as server,
        peer(server) as ann,
        peer(server, "bob") as bob,
    ):
        view = await present(ann)
        await present(bob)
        await view.until("ann", "bob")
        await how(server, bob)
        await view.until("ann")


async def test_member_that_joins_again_is_told_anew_and_the_others_nothing(
    running: Running, hurried: None
) -> None:
    async with (
        running("resume") as server,
        peer(server) as ann,
        peer(server, "bob") as bob,
        peer(server, "cat") as cat,
    ):
        view = await present(ann)
        await present(bob)
        await view.until("ann", "bob")
        before = len(view.told)
        assert (await present(bob)).users() == ["ann", "bob"]
        await leaves(server, bob)
        assert (await present(bob)).users() == ["ann", "bob"]
        await present(cat)
        await view.until("ann", "bob", "cat")
        assert view.told[before:] == [
            {
                "type": "presence",
                "room": "red",
                "count": 3,
                "joined": [{"id": cat.hello["id"], "user": "cat"}],
                "left": [],
            }
        ]


@pytest.mark.parametrize("wrong", [1, "true", None, {}])
async def test_presence_that_is_no_boolean_is_a_bad_message(
    wrong: Any, running: Running
) -> None:
    async with running("rooms") as server, peer(server) as ann:
        answer = await ann.join("red", presence=wrong)
        assert (answer["type"], answer["code"]) == ("error", "bad_message")


async def test_present_comes_after_joined_and_what_was_missed(
    running: Running, hurried: None
) -> None:
    async with (
        running("resume") as server,
        peer(server) as ann,
        peer(server, "bob") as bob,
    ):
        at = await ann.join("red")
        await bob.publish("red", 3)
        after = {"epoch": at["epoch"], "seq": 0}
        await ann.ask(type="leave", room="red")
        await ann.send(type="join", room="red", presence=True, after=after)
        kinds = [(await ann.recv())["type"] for _ in range(5)]
        assert kinds == ["joined", "message", "message", "message", "present"]


async def test_client_of_cbor_is_told_the_same(running: Running, hurried: None) -> None:
    async with (
        running("resume") as server,
        peer(server) as ann,
        connect(
            server.url,
            subprotocols=["lab.cbor"],
            additional_headers={"Authorization": f"Bearer {issue(SECRET, 'bob')}"},
        ) as bob,
    ):
        view = await present(ann)
        join = {"type": "join", "room": "red", "presence": True}
        await bob.send(cbor2.dumps(join))
        async with asyncio.timeout(DEADLINE):
            for kind in ("hello", "joined", "present"):
                message = cbor2.loads(await bob.recv())
                assert message["type"] == kind
        await view.until("ann", "bob")
        assert message["room"] == "red"
        assert named(message["clients"]) == view.names


def test_oracle_has_no_opinion_about_presence() -> None:
    oracle = Oracle()
    roster = Roster(1, {"x": "ann"})
    for message in (picture("red", roster), change("red", NOBODY, roster)):
        oracle.saw(json.loads(presence.messages.encode(message)))
    assert oracle.verdict.clean and oracle.cursor("red") is None


# No storm


@pytest.mark.parametrize("without", [(), ("broker",)], ids=["redis", "local"])
async def test_crowd_that_comes_at_once_is_told_in_a_few_events(
    without: tuple[str, ...], running: Running
) -> None:
    count = 300
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(without=without))
        crowd = await asyncio.gather(
            *(
                stack.enter_async_context(peer(server, f"user-{number}"))
                for number in range(count)
            )
        )
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(each.join("red", presence=True) for each in crowd))
        views = [View(each) for each in crowd]
        await asyncio.gather(*(view.until_count(count) for view in views))
        # One an interval, also on a slow machine; naively there are up to 300 for each.
        intervals = int(asyncio.get_running_loop().time() - began) + 2
        for view in views:
            assert 1 <= len(view.told) <= intervals
            assert [each["type"] for each in view.told].count("present") == 1
            assert view.names is None
            assert sum(len(json.dumps(each)) for each in view.told) < 20_000


async def test_member_that_came_and_left_between_two_events_is_not_mentioned(
    running: Running,
) -> None:
    async with running("resume") as server, peer(server) as ann:
        view = await present(ann)  # so the next event comes in a second
        for _ in range(5):
            async with peer(server, "moth") as moth:
                await moth.join("red", presence=True)
                await moth.ask(type="leave", room="red")
        async with peer(server, "bob") as bob:
            await bob.join("red", presence=True)
            await view.until("ann", "bob")
        assert len(view.told) == 2
        assert "moth" not in view.mentioned()


async def test_nothing_is_told_when_nothing_changed(
    running: Running, redis: Redis, hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "TTL", 50)  # refreshes: a busy machine misses some
    async with running("resume") as server, peer(server) as ann:
        await present(ann)
        said = redis.hgetall(KEY)
        # The replica says so again, often enough not to be forgotten.
        for _ in range(10):
            await eventually(lambda said=said: redis.hgetall(KEY) != said)
            after = redis.hgetall(KEY)
            assert after[b"version"] == said[b"version"]
            said = after
        assert await ann.heard() == []


async def test_frame_is_built_once_for_all_of_a_variant(
    running: Running, hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []

    def frame(variant: wire.Variant, text: bytes) -> bytes:
        if b'"type":"presence"' in text:
            built.append(text)
        return original(variant, text)

    original = wire.frame
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running("rooms"))
        crowd = [await stack.enter_async_context(peer(server)) for _ in range(20)]
        await asyncio.gather(*(each.join("red", presence=True) for each in crowd))
        views = [View(each) for each in crowd]
        await asyncio.gather(*(view.until_count(20) for view in views))
        monkeypatch.setattr(wire, "frame", frame)
        await leaves(server, crowd.pop())
        views.pop()
        await asyncio.gather(*(view.until_count(19) for view in views))
        assert len(built) == 1


@EVERYWHERE
async def test_too_many_are_counted_and_named_again_when_they_are_fewer(
    stage: str, without: tuple[str, ...], running: Running, hurried: None, few: int
) -> None:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(running(stage, without=without))
        two = one
        if stage == "resume" and not without:
            two = await stack.enter_async_context(running(stage))
        ann = await stack.enter_async_context(peer(one))
        view = await present(ann)
        others = [
            await stack.enter_async_context(peer(server, "bob"))
            for server in (one, two, two)
        ]
        for each in others[:2]:
            await each.join("red", presence=True)
        await view.until("ann", "bob", "bob")
        last = await present(others[2])
        assert last.told[0] == {"type": "present", "room": "red", "count": 4}
        await view.until_count(4)
        assert view.told[-1] == {"type": "presence", "room": "red", "count": 4}
        assert view.names is None
        await leaves(two, others[2])
        await view.until("ann", "bob", "bob")
        assert view.told[-1]["type"] == "present"
        await leaves(two, others[1])
        await view.until("ann", "bob")
        assert view.told[-1]["type"] == "presence"


@asynccontextmanager
async def sleepy(server: LabServer) -> AsyncIterator[Peer]:
    """A client with small buffers, which only reads when the test says so."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
    async with peer(server, "sloth", sock=sock, max_queue=None) as sloth:
        yield sloth


def held(connection: LabConnection) -> int:
    """Return the bytes that wait for a connection in this process."""
    unsent = connection.transport.get_write_buffer_size()
    return max(connection.outbox.waiting(), unsent)


@pytest.mark.parametrize("without", [(), ("backpressure",)], ids=["bounded", "direct"])
async def test_for_a_slow_reader_no_presence_waits_and_it_is_told_when_it_reads(
    without: tuple[str, ...], running: Running, hurried: None
) -> None:
    async with (
        running("backpressure", without=without, send_buffer=4096) as server,
        peer(server) as ann,
        sleepy(server) as sloth,
    ):
        await sloth.join("lobby")
        slow = await present(sloth)
        view = await present(ann)
        await view.until("ann", "sloth")
        await slow.until("ann", "sloth")
        sloth.socket.transport.pause_reading()
        connection = connection_of(server, "sloth")
        while held(connection) < 20_000:  # until the kernel's buffers stay full
            await ann.publish("lobby", 1, 2000)
        before = held(connection)
        for _ in range(10):
            async with peer(server, "bob") as bob:
                await bob.join("red", presence=True)
                await view.until("ann", "bob", "sloth")
            await view.until("ann", "sloth")
        assert held(connection) <= before
        sloth.socket.transport.resume_reading()
        async with peer(server, "cat") as cat:
            await cat.join("red", presence=True)
            slow.told.clear()
            await slow.until("ann", "cat", "sloth")
        assert slow.told[0]["type"] == "present"
        assert "bob" not in slow.mentioned()


# Several replicas


async def test_replicas_agree_after_much_coming_and_going(
    running: Running, hurried: None
) -> None:
    draw = random.Random(7)
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(running()) for _ in range(3)]
        peers = [
            await stack.enter_async_context(peer(draw.choice(servers), f"u{number}"))
            for number in range(12)
        ]
        inside: set[int] = set()
        views = {number: View(each) for number, each in enumerate(peers)}
        for _ in range(150):
            number = draw.randrange(len(peers))
            client, view = peers[number], views[number]
            message = {"type": "join", "room": "red", "presence": True}
            if number in inside and draw.random() < 0.8:
                message = {"type": "leave", "room": "red"}
            (inside.add if "presence" in message else inside.discard)(number)
            await client.send(**message, ref="q")
            while (answer := await client.recv()).get("ref") != "q":
                view.saw(answer)
        inside.add(0)
        await peers[0].send(type="join", room="red", presence=True)
        users = [f"u{number}" for number in inside]
        await asyncio.gather(*(views[number].until(*users) for number in inside))


async def test_change_elsewhere_is_told_without_waiting_for_a_refresh(
    running: Running, hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "REFRESH", 60.0)
    async with running() as one, running() as two, peer(one) as ann:
        view = await present(ann)
        async with peer(two, "bob") as bob:
            await present(bob)
            await view.until("ann", "bob")
        await view.until("ann")


@pytest.mark.timeout(90)
async def test_rooms_on_every_server_of_a_redis_cluster_know_who_is_there(
    running: Running, hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "REFRESH", 60.0)  # so only hints can bring changes
    rooms = [f"room-{number}" for number in range(12)]
    async with (
        redis_cluster() as cluster,
        running(redis=cluster.url) as one,
        running(redis=cluster.url) as two,
        peer(one) as ann,
        peer(two, "bob") as bob,
    ):
        assert len({(await cluster.owner(room)).port for room in rooms}) == 3
        for room in rooms:
            view = await present(ann, room)
            other = await present(bob, room)
            assert other.users() == ["ann", "bob"]
            await view.until("ann", "bob")


async def test_replica_that_stops_says_that_its_people_left(
    running: Running, redis: Redis
) -> None:
    async with running() as one, peer(one) as ann:
        async with running() as two, peer(two, "bob") as bob:
            view = await present(ann)
            await present(bob)
            await view.until("ann", "bob")
            assert len(redis.hgetall(KEY)) == 3  # two replicas, and the version
        assert len(redis.hgetall(KEY)) == 2
        await view.until("ann")
    assert not redis.exists(KEY)


async def test_many_quiet_rooms_are_looked_at_less_often_and_not_forgotten(
    running: Running, redis: Redis, hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "REFRESHES", 10)
    async with running() as server, peer(server) as ann:
        for number in range(20):
            await ann.join(f"room-{number}", presence=True)
        assert server.attendance.refresh == 2.0
        await present(ann)
        assert redis.pttl(KEY) > 6000


def set_back(redis: Redis, seconds: int) -> None:
    """Move all expiries ahead, as if Redis's clock had been set back."""
    for name, said in redis.hgetall(KEY).items():
        if name != b"version":
            expiry, rest = said.split(b" ", 1)
            redis.hset(KEY, name, b"%d %b" % (int(expiry) + 1000 * seconds, rest))
    redis.pexpire(KEY, redis.pttl(KEY) + 1000 * seconds)


@pytest.mark.parametrize("seconds", [0, 120])
async def test_people_of_a_killed_replica_leave_though_the_clock_is_set_back(
    seconds: int, redis_url: str, redis: Redis
) -> None:
    async with running_cluster(2, redis=redis_url) as cluster:
        one, two = cluster.replicas
        async with (
            peer(one.url, token=one.token("ann")) as ann,
            peer(one.url, token=one.token("eve")) as eve,
            peer(two.url, token=two.token("bob")) as bob,
        ):
            ttl = presence.TTL * presence.REFRESH
            ann.patience = ttl + presence.REFRESH + DEADLINE
            view = await present(ann)
            await present(eve)
            await present(bob)
            await view.until("ann", "bob", "eve")
            assert await two.stop(signal.SIGKILL) == -signal.SIGKILL
            set_back(redis, seconds)
            await view.until("ann", "eve")
            (event,) = [each for each in view.told if each.get("left")]
            assert event["left"] == [{"id": bob.hello["id"], "user": "bob"}]
            assert 0 < redis.pttl(KEY) <= ttl * 1000


# Trouble with Redis


@pytest.mark.parametrize("how", ["frozen", "emptied", "started again"])
async def test_presence_heals_by_itself_and_tells_of_nobody_who_stayed(
    how: str, running: Running, own_redis: EmbeddedRedis, hurried: None
) -> None:
    async with (
        running(redis=own_redis.url) as one,
        running(redis=own_redis.url) as two,
        peer(one) as ann,
        peer(two, "bob") as bob,
        peer(two, "cat") as cat,
    ):
        view = await present(ann)
        await present(bob)
        await present(cat)
        await view.until("ann", "bob", "cat")
        if how == "frozen":
            own_redis.signal(signal.SIGSTOP)
            try:
                # Until both notice; all entries in Redis have expired by then.
                for server in (one, two):
                    watched = server.attendance.audiences["red"]
                    before = watched.trusted
                    await eventually(lambda w=watched, b=before: w.trusted > b)
                await leaves(two, cat)  # this does not wait for Redis
            finally:
                own_redis.signal(signal.SIGCONT)
        else:
            if how == "emptied":
                with Redis.from_url(own_redis.url) as redis:
                    for server in (one, two) * 5:  # either may be the first to notice
                        redis.flushall()
                        server.attendance.stir("red")
                        await eventually(lambda r=redis: r.hlen(KEY) == 3)
            else:
                own_redis.stop()
                await own_redis.start()
            await leaves(two, cat)
        await view.until("ann", "bob")
        left = [each for event in view.told for each in event.get("left", [])]
        assert left == [{"id": cat.hello["id"], "user": "cat"}]
        joined = [each for event in view.told for each in event.get("joined", [])]
        assert len(joined) == 2


async def test_unreadable_entry_of_a_replica_is_deleted(
    running: Running, redis: Redis, hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "TTL", 500)  # refreshes: entries do not expire
    async with running("resume") as server, peer(server) as ann:
        view = await present(ann)
        redis.hset(KEY, "another", "who knows")
        async with peer(server, "bob") as bob:
            await present(bob)
            await view.until("ann", "bob")
        assert not redis.hexists(KEY, "another")


async def test_error_in_presence_holds_up_nothing_else(
    running: Running, redis: Redis, hurried: None
) -> None:
    redis.set(KEY, "not a hash")
    async with (
        running("resume") as server,
        peer(server) as ann,
        peer(server, "bob") as bob,
    ):
        await bob.join("red", presence=True)
        await ann.join("red", presence=True)
        assert await ann.publish("red", 3) == [1, 2, 3]
        kinds = [each["type"] for each in await ann.heard()]
        assert "present" not in kinds and "error" not in kinds
        redis.delete(KEY)
        view = View(ann)
        await view.until("ann", "bob")
        assert [each["type"] for each in view.told] == ["present"]


# The client that reconnects


async def test_client_asks_for_presence_again_after_a_reconnect(
    running: Running, hurried: None
) -> None:
    async with (
        running("resume") as server,
        Client(
            server.url,
            issue(SECRET, "ann"),
            backoff=Backoff(first=0.0, cap=0.0),
        ) as client,
    ):
        await client.join("red", presence=True)
        told = aiter(client)

        async def until(kind: str) -> dict[str, Any]:
            async with asyncio.timeout(DEADLINE):
                while (message := await anext(told))["type"] != kind:
                    pass
                return message

        first = await until("present")
        connection_of(server, "ann").transport.abort()
        again = await until("present")
        for told_of in (first, again):
            assert [each["user"] for each in told_of["clients"]] == ["ann"]
        assert again["clients"] != first["clients"]
        await client.join("red")  # without presence from now on
        async with peer(server, "bob") as bob:
            assert (await present(bob)).users() == ["bob"]
        assert client.present == set()
