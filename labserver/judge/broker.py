"""Every replica delivers all messages of its rooms, in one order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from labserver.client import Client
from labserver.judge.evidence import note
from labserver.judge.oracle import Oracle, disagreements, lost
from labserver.judge.world import Broken, Peer, Served, World, must, peer
from labserver.redis.link import channel_of

SILENT = 2.5  # seconds
JOINS = 25  # each of a room that is new to its replica


@asynccontextmanager
async def _two(world: World) -> AsyncIterator[tuple[Served, Served]]:
    async with world.running(replica=0) as one, world.running(replica=1) as two:
        yield one, two


async def replicas_agree_on_one_order(world: World) -> None:
    """Members of two replicas get the same messages once, in the same order."""
    async with (
        _two(world) as (one, two),
        world.client(one, "ann") as ann,
        world.client(one, "bob") as bob,
        world.client(two, "cy") as cy,
        world.client(two, "dan") as dan,
    ):
        clients = (ann, bob, cy, dan)
        names = dict(zip(clients, ("ann", "bob", "cy", "dan"), strict=True))
        oracles, lobby = [Oracle() for _ in clients], world.room("lobby")
        for client in clients:
            await client.join(lobby)

        async def speak(client: Client) -> list[int]:
            seqs = []
            for number in range(25):
                said = f"{names[client]} {number}"
                note(names[client], "sent", f"publish {said}")
                ack = await client.publish(lobby, said)
                note(names[client], "received", json.dumps(ack))
                seqs.append(ack["seq"])
            return seqs

        async def listen(client: Client, oracle: Oracle) -> None:
            async for message in client:
                note(names[client], "received", json.dumps(message))
                oracle.saw(message)
                if oracle.verdict.received == 100:
                    return

        async with world.awaiting("a hundred messages for each member"):
            seqs = await asyncio.gather(*(speak(client) for client in clients))
            pairs = zip(clients, oracles, strict=True)
            await asyncio.gather(*(listen(*pair) for pair in pairs))
        acknowledged = [seq for each in seqs for seq in each]
        twice = len(acknowledged) - len(set(acknowledged))
        must(
            sorted(acknowledged) == list(range(1, 101)),
            f"acks are not 1 to 100: {twice} numbers were given twice",
        )
        if wrong := disagreements(oracles):
            heard = ", ".join(
                f"{name} {oracle.payloads().get(wrong[0])!r}"
                for name, oracle in zip(names.values(), oracles, strict=True)
            )
            raise Broken(
                f"members got different messages at {len(wrong)} places, first at seq "
                f"{wrong[0][2]}: {heard}"
            )
        for oracle in oracles:
            must(oracle.verdict.clean, str(oracle.verdict))
            must(not lost(oracle, lobby, acknowledged), "a message was lost")


async def replica_listens_to_its_own_rooms_only(world: World) -> None:
    """A message goes only to replicas that have members of its room."""
    async with (
        world.inside() as one,
        world.inside() as two,
        peer(one) as ann,
        peer(two, "bob") as bob,
    ):
        await ann.join("red")
        await bob.join("blue")
        async with Redis.from_url(world.redis) as redis:
            for room, members in (("red", 1), ("blue", 1), ("nowhere", 0)):
                # Not by publishing: brokers' messages differ in their form.
                ((_, told),) = await redis.pubsub_numsub(channel_of(room))
                hearing = await redis.client_list("pubsub")
                told += sum(each["psub"] != "0" for each in hearing)
                must(
                    told == members,
                    f"{told} replicas got the message, {members} have members",
                )


async def who_returns_at_once_hears(world: World) -> None:
    """A room still gets messages after it was empty for a moment."""
    async with _two(world) as (one, two), peer(one) as ann, peer(two, "bob") as bob:
        red = world.room("red")
        await bob.join(red)
        for number in range(10):
            if number < 3:
                await bob.send(type="leave", room=red)
                await bob.join(red)
            async with world.awaiting("a message after leaving and joining again"):
                await ann.publish(red, 1)
                await bob.until("message")
            await asyncio.sleep(0.02)


async def who_joins_hears_all_that_follows(world: World) -> None:
    """Who joins while others speak gets every message after the seq it was told."""
    async with (
        _two(world) as (one, two),
        world.uneven_redis(),
        peer(one, max_queue=None) as ann,
        peer(two, "bob", max_queue=None) as bob,
    ):
        for number in range(JOINS):
            room, oracle = world.room(f"red-{number}"), Oracle()
            await ann.join(room)
            speaking = asyncio.create_task(_speak(ann, room))
            try:
                async with world.awaiting("a joined, and what is said after it"):
                    joined = await bob.join(room)
                    oracle.saw(joined)
                    await bob.hear_until(oracle, room, joined["seq"] + 3)
            finally:
                speaking.cancel()
                await asyncio.gather(speaking, return_exceptions=True)
            must(  # nothing is broken, so nothing need be lost
                oracle.verdict.clean and not oracle.verdict.gaps,
                f"joined at seq {joined['seq']}, while others spoke: {oracle.verdict}",
            )
            async with world.awaiting("answers to leaves"):
                for member in (ann, bob):
                    await member.ask(type="leave", room=room)


async def broken_link_loses_nothing(world: World) -> None:
    """After its link broke, a replica delivers missed messages, or announces a gap."""
    async with _two(world) as (one, two), peer(one) as ann, peer(two, "bob") as bob:
        red = world.room("red")
        oracle = Oracle()
        oracle.saw(await bob.join(red))
        async with world.awaiting("a message"):
            seqs = await ann.publish(red, 1)
            oracle.saw(await bob.until("message"))
        await world.break_link()
        when = "the messages after the link broke"
        async with world.awaiting(when):
            seqs += await _insisted(ann, red, 5)
        await _all_came(world, bob, ann, oracle, red, seqs, when)
        must(oracle.verdict.clean, str(oracle.verdict))


async def frozen_redis_loses_nothing(world: World) -> None:
    """While Redis is silent no publish is acknowledged and lost; then all arrives."""
    async with _two(world) as (one, two), peer(one) as ann, peer(two, "bob") as bob:
        red = world.room("red")
        oracle = Oracle()
        oracle.saw(await bob.join(red))
        async with world.awaiting("a message"):
            seqs = await ann.publish(red, 1)
            oracle.saw(await bob.until("message"))
        publishing = asyncio.create_task(_insisted(ann, red, 5))
        try:
            async with world.frozen_redis():
                await asyncio.sleep(SILENT)
            when = "acks, and the messages, after Redis was silent"
            async with world.awaiting(when):
                seqs += await publishing
            await _all_came(world, bob, ann, oracle, red, seqs, when)
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
        must(oracle.verdict.clean, str(oracle.verdict))


async def emptied_redis_is_told(world: World) -> None:
    """When Redis has forgotten its rooms, members are told, and messages go on."""
    async with _two(world) as (one, two), peer(one) as ann, peer(two, "bob") as bob:
        red = world.room("red")
        oracle = Oracle()
        oracle.saw(await bob.join(red))
        async with world.awaiting("messages"):
            await ann.publish(red, 3)
            for _ in range(3):
                oracle.saw(await bob.until("message"))
        before = oracle.cursor(red)
        await world.empty_redis()
        async with world.awaiting("what was acknowledged after Redis came back empty"):
            seqs = await _insisted(ann, red, 5)
            await bob.hear_until(oracle, red, seqs[-1])
        must(
            oracle.verdict.clean,
            f"Redis came back empty, and a member was not told: {oracle.verdict}",
        )
        now = oracle.cursor(red)
        assert before is not None and now is not None
        must(
            min(seqs) > 3 or before["epoch"] != now["epoch"],
            f"Redis came back empty, and a member was not told: after seq 3 came "
            f"{min(seqs)}, in the same epoch",
        )


async def killed_replica_costs_the_others_nothing(world: World) -> None:
    """A replica that crashes costs the members of another one no message."""
    async with _two(world) as (one, two), peer(two) as ann, peer(two, "bob") as bob:
        red = world.room("red")
        oracle = Oracle()
        oracle.saw(await bob.join(red))
        async with peer(one, "cy") as cy:
            async with world.awaiting("a message"):
                seqs = await cy.publish(red, 1)
            await world.kill(one)
        async with world.awaiting("messages through a replica, after another crashed"):
            seqs += await _insisted(ann, red, 5)
            await bob.hear_until(oracle, red, seqs[-1])
        silent = lost(oracle, red, seqs)
        must(
            oracle.verdict.clean and not silent,
            f"{len(silent)} lost without a word when another replica crashed; "
            f"{oracle.verdict}",
        )


async def _all_came(
    world: World,
    member: Peer,
    other: Peer,
    oracle: Oracle,
    room: str,
    seqs: Sequence[int],
    what: str,
) -> None:
    """Wait until a member was given, or told lost, each of these messages.

    Raises:
        Broken: It was not. Another message then shows whether it still hears any.

    """
    try:
        async with world.awaiting(what):
            while lost(oracle, room, seqs):
                oracle.saw(await member.recv())
    except Broken as deaf:
        silent = len(lost(oracle, room, seqs))
        try:
            async with world.awaiting("a message after those"):
                await other.publish(room, 1)
                while (message := await member.recv())["type"] != "message":
                    oracle.saw(message)
                oracle.saw(message)
        except Broken:
            raise deaf from None
        told = "only then told" if not lost(oracle, room, seqs) else "never told"
        raise Broken(
            f"{deaf}; a message after them came, and {silent} lost before it were "
            f"{told}"
        ) from None


async def _speak(client: Peer, room: str) -> None:
    """Publish again and again, and wait for no ack."""
    while True:
        await client.send(type="publish", room=room, payload=1)
        await asyncio.sleep(0.002)


async def _insisted(client: Peer, room: str, count: int) -> list[int]:
    """Publish, again where the broker is down; return what was acknowledged."""
    seqs = []
    for number in range(count):
        said = {"type": "publish", "room": room, "payload": number, "key": f"k{number}"}
        while (answer := await client.ask(**said))["type"] != "ack":
            code = answer.get("code")
            must(code == "broker_down", f"a publish was answered {answer}")
            await asyncio.sleep(0.05)
        seqs.append(answer["seq"])
    return seqs
