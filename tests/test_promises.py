"""One test a promise, at the stage that makes it and at every stage after it."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from conftest import DEADLINE, Peer, Running, eventually, peer
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from labserver.client import Client
from labserver.oracle import Oracle, disagreements, lost
from labserver.server import LabServer
from labserver.stages import STAGES
from labserver.tokens import issue

SECRET = "a secret of thirty-two bytes or more"


def from_stage(name: str) -> list[str]:
    """Return the names of a stage and of all after it."""
    return [each for each in STAGES if STAGES[each].number >= STAGES[name].number]


async def publish(client: Peer, room: str, count: int, size: int = 0) -> list[int]:
    """Publish numbered payloads, one acknowledged after the other; return the seqs."""
    seqs = []
    for number in range(count):
        payload = {"n": number, "pad": "x" * size}
        await client.send(type="publish", room=room, payload=payload, ref="p")
        seqs.append((await client.until("ack"))["seq"])
    return seqs


async def stalled(server: LabServer, room: str = "lobby") -> asyncio.StreamWriter:
    """Connect a member that reads its ``joined`` and then never again."""
    token = issue(SECRET, "sloth")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
    writer.write(
        f"GET /?token={token} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    join = json.dumps({"type": "join", "room": room}).encode()
    writer.write(bytes((0x81, 0x80 | len(join), 0, 0, 0, 0)) + join)
    await reader.readuntil(b'"joined"')
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    return writer


VALUES = [
    None, True, 0, -1.5, 12345678901234567890123, "", "\u00fc\U0001f600", [], {},
    [[[1]]], {"type": "join", "room": 3}, {"type": "hello"}, "a" * 10_000,
]  # fmt: skip


@pytest.mark.parametrize("stage", from_stage("echo"))
async def test_every_well_formed_message_comes_back(
    stage: str, running: Running
) -> None:
    async with running(stage) as server, peer(server) as client:
        wrapped = STAGES[stage].number >= STAGES["rooms"].number
        for value in VALUES:
            sent = {"type": "echo", "payload": value} if wrapped else value
            await client.socket.send("this is not JSON")
            await client.socket.send(json.dumps(sent))
            assert (await client.recv())["code"] == "bad_json"
            assert await client.recv() == {"type": "echo", "payload": value}


@pytest.mark.parametrize("stage", from_stage("auth"))
async def test_no_stranger_gets_a_socket(stage: str, running: Running) -> None:
    async with running(stage) as server:
        forged = issue("another secret of thirty-two bytes!", "ann")
        for query in ("", "?token=", "?token=x.y.z", f"?token={forged}"):
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"{server.url}/{query}")
            assert refused.value.response.status_code == 401
        assert server.metrics.accepted == 0
        late = issue(SECRET, "ann", ttl=1.2)
        async with peer(server, token=late) as client:
            assert await client.closed() == 4401


@pytest.mark.parametrize("stage", from_stage("rooms"))
async def test_message_reaches_everyone_in_its_room_once(
    stage: str, running: Running
) -> None:
    async with (
        running(stage) as server,
        peer(server, "ann") as ann,
        peer(server, "bob") as bob,
        peer(server, "cy", subprotocols=["lab.json"], compression="deflate") as cy,
        peer(server, "dan") as dan,
    ):
        for client in (ann, bob, cy):
            await client.join("red")
        await bob.join("red")  # again: still one member
        await dan.join("blue")
        for number in range(50):
            await ann.send(type="publish", room="red", payload=number)
        for client in (ann, bob, cy):
            oracle = Oracle()
            for _ in range(50):
                oracle.saw(message := await client.recv())
                assert message["from"] == "ann"
            assert oracle.verdict.received == 50
            assert oracle.verdict.clean
            assert (await client.ask(type="ping"))["type"] == "pong"  # nothing more
        await dan.send(type="ping", ref=1)
        assert await dan.recv() == {"type": "pong", "ref": 1}
        await ann.ask(type="leave", room="red")
        await dan.ask(type="leave", room="blue")
        await bob.send(type="publish", room="red", payload="bye", ref=2)
        assert (await bob.until("message"))["payload"] == "bye"
        assert (await ann.ask(type="ping"))["type"] == "pong"
        assert set(server.hub.rooms) == {"red"}
        await bob.socket.close()
        await cy.socket.close()
        await eventually(lambda: not server.hub.rooms)
        assert not any(each.rooms for each in server.connections)


@pytest.mark.parametrize("stage", from_stage("heartbeat"))
async def test_dead_peer_is_gone_and_a_live_one_stays(
    stage: str, running: Running
) -> None:
    async with running(stage, heartbeat_interval=0.3) as server, peer(server) as live:
        quiet = await stalled(server)
        full = await stalled(server)
        await live.join("lobby")
        # One of the dead has a full buffer: a ping cannot even be sent to it.
        (silenced,) = [c for c in server.connections if c.name not in _names(live)][:1]
        silenced.transport.write(bytes(8_000_000))
        await eventually(lambda: len(server.connections) == 1)
        assert server.metrics.dead == 2
        assert (await live.ask(type="ping"))["type"] == "pong"
        assert server.metrics.closes[4408] == 2
        quiet.transport.abort()
        full.transport.abort()


def _names(*clients: Peer) -> set[str]:
    return {client.hello["id"] for client in clients}


@pytest.mark.parametrize("policy", ["disconnect", "drop-newest", "conflate"])
@pytest.mark.parametrize("stage", from_stage("backpressure"))
async def test_slow_reader_hurts_only_itself(
    stage: str, policy: str, running: Running
) -> None:
    limit = 65536
    async with (
        running(
            stage, outbox_limit=limit, outbox_policy=policy, send_buffer=16384
        ) as server,
        peer(server, "bob") as bob,
        peer(server, "ann") as ann,
    ):
        sloth = await stalled(server)
        (slow,) = [c for c in server.connections if c.identity.user == "sloth"]
        await bob.join("lobby")
        oracle, seqs, most = Oracle(), [], 0
        async with asyncio.timeout(DEADLINE):
            while server.metrics.drops + server.metrics.closes[4409] == 0 or most == 0:
                seqs += await publish(ann, "lobby", 10, size=4000)
                for _ in range(10):
                    oracle.saw(await bob.recv())
                most = max(most, slow.outbox.waiting())
                if slow.ending is not None:
                    assert slow.ending.code == 4409
                    break
        assert oracle.verdict.clean
        assert not lost(oracle, "lobby", seqs)
        assert 0 < most <= limit or slow.ending is not None
        sloth.transport.abort()


@pytest.mark.parametrize("stage", from_stage("broker"))
async def test_every_replica_delivers_in_one_order(
    stage: str, running: Running
) -> None:
    async with running(stage) as one, running(stage) as two:
        servers = (one, two)
        async with (
            Client(one.url, issue(SECRET, "ann")) as ann,
            Client(one.url, issue(SECRET, "bob")) as bob,
            Client(two.url, issue(SECRET, "cy")) as cy,
            Client(two.url, issue(SECRET, "dan")) as dan,
        ):
            clients = (ann, bob, cy, dan)
            oracles = [Oracle() for _ in clients]
            for client in clients:
                await client.join("lobby")

            async def speak(client: Client) -> list[int]:
                acks = [await client.publish("lobby", n) for n in range(25)]
                return [ack["seq"] for ack in acks]

            async def listen(client: Client, oracle: Oracle) -> None:
                async for message in client:
                    oracle.saw(message)
                    if oracle.verdict.received == 100:
                        return

            seqs = await asyncio.gather(
                *(speak(client) for client in clients),
                *(listen(*pair) for pair in zip(clients, oracles, strict=True)),
            )
            acknowledged = [seq for each in seqs[:4] for seq in each]
            assert sorted(acknowledged) == list(range(1, 101))
            for oracle in oracles:
                assert oracle.verdict.clean
                assert not lost(oracle, "lobby", acknowledged)
            assert not disagreements(oracles)
        for server in servers:
            await eventually(lambda server=server: not server.hub.rooms)


@pytest.mark.parametrize("without", [(), ("broker",)], ids=["redis", "local"])
@pytest.mark.parametrize("stage", from_stage("resume"))
async def test_client_that_comes_back_misses_nothing_or_is_told(
    stage: str, without: tuple[str, ...], running: Running
) -> None:
    async with (
        running(stage, without=without, history_limit=20) as server,
        peer(server, "ann") as ann,
    ):
        async with peer(server, "bob") as bob:
            joined = await bob.join("lobby")
            assert joined["recovered"] is False
            await publish(ann, "lobby", 5)
            for _ in range(5):
                last = await bob.until("message")
        cursor = {"epoch": joined["epoch"], "seq": last["seq"]}
        await publish(ann, "lobby", 20)
        async with peer(server, "bob") as bob:
            # Live messages race with the replay; none may overtake it.
            speaking = asyncio.create_task(publish(ann, "lobby", 10))
            joined = await bob.join("lobby", after=cursor)
            got = [(await bob.until("message"))["seq"] for _ in range(30)]
            await speaking
        if joined["recovered"]:  # else the live ones pushed the oldest out
            assert got == list(range(6, 36))
        else:
            assert got == list(range(joined["seq"] + 1, joined["seq"] + 31))
        async with peer(server, "bob") as bob:
            for stale in (cursor, {"epoch": "nonsense", "seq": 34}):
                joined = await bob.join("lobby", after=stale)
                assert joined["recovered"] is False
                assert joined["seq"] == 35
            assert await bob.ask(type="ping") == {"type": "pong", "ref": "q"}


@pytest.mark.parametrize("without", [(), ("broker",)], ids=["redis", "local"])
async def test_history_is_forgotten_with_age(
    without: tuple[str, ...], running: Running
) -> None:
    async with (
        running("resume", without=without, history_ttl=0.2) as server,
        peer(server) as ann,
    ):
        joined = await ann.join("lobby")
        await publish(ann, "lobby", 3)
        cursor = {"epoch": joined["epoch"], "seq": 1}

        async def forgotten() -> bool:
            return not (await ann.join("lobby", after=cursor))["recovered"]

        started = time.monotonic()
        await eventually(forgotten)
        assert time.monotonic() - started < DEADLINE
