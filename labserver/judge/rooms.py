"""A message reaches everyone in its room, once, and its frame is built once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from websockets.exceptions import ConnectionClosed

from labserver.contract.tokens import issue
from labserver.contract.wire import Chunk
from labserver.judge.kept import keepers
from labserver.judge.oracle import Oracle, lost
from labserver.judge.peers import secret_of
from labserver.judge.world import (
    Broken,
    Peer,
    Skipped,
    World,
    connection_of,
    must,
    peer,
)
from labserver.server.connection import LabConnection
from labserver.server.member import Outbox
from labserver.server.server import LabServer
from labserver.stages.rooms import RoomsApplication


async def everyone_hears_it_once(world: World) -> None:
    """Members get each message once and in order; other clients do not get it."""
    red, blue = world.room("red"), world.room("blue")
    async with (
        world.running() as server,
        peer(server, "ann") as ann,
        peer(server, "bob") as bob,
        peer(server, "cy", subprotocols=["lab.json"], compression="deflate") as cy,
        peer(server, "dan") as dan,
    ):
        async with world.awaiting("the joined of each member"):
            for client in (ann, bob, cy):
                await client.join(red)
            await bob.join(red)  # again: still one member
            await dan.join(blue)
        for number in range(50):
            await ann.send(type="publish", room=red, payload=number)
        await ann.send(type="publish", room=red, payload="last", ref="p")
        for client in (ann, bob, cy):
            oracle, payloads = Oracle(), []
            is_publisher = ", who published them and is a member" * (client is ann)
            async with world.awaiting(f"51 messages to {client.name}{is_publisher}"):
                while oracle.verdict.received < 51:
                    message = await client.recv()
                    oracle.saw(message)
                    if message["type"] != "message":
                        _must_be_asked_for(message)
                        continue
                    payloads.append(message["payload"])
                    who = message["from"]
                    must(who == "ann", f"ann published, and from says {who!r:.40}")
                for message in await client.heard():
                    oracle.saw(message)
            verdict = oracle.verdict
            must(
                verdict.clean and verdict.received == 51,
                f"{client.name}, one of 3 members, of 51 messages: {verdict}",
            )
            sent = [*range(50), "last"]
            if sorted(map(repr, payloads)) == sorted(map(repr, sent)):
                must(payloads == sent, f"{client.name} heard them in another order")
            for got, wanted in zip(payloads, sent, strict=True):
                must(
                    got == wanted,
                    f"{client.name} heard payload {got!r:.40} where {wanted!r:.40} "
                    "was published",
                )
        async with world.awaiting("the pong of a client of another room"):
            must(not await dan.heard(), "a message reached a client of another room")


def _must_be_asked_for(message: dict[str, Any]) -> None:
    """Refuse the ack of a publish that had no ref."""
    must(
        message["type"] != "ack" or message.get("ref") == "p",
        "a publish without a ref was answered with an ack",
    )


async def who_left_hears_nothing(world: World) -> None:
    """Who leaves a room hears nothing more, until it joins again."""
    red = world.room("red")
    async with (
        world.running() as server,
        peer(server, "ann") as ann,
        peer(server, "bob") as bob,
        peer(server, "cy") as cy,  # speaks without being a member, as one may
    ):
        async with world.awaiting("the joined of two members"):
            for client in (ann, bob):
                await client.join(red)
        async with world.awaiting("the answer to a leave"):
            for client in (ann, cy):  # cy is not there
                left = await client.ask(type="leave", room=red)
                must(left["type"] == "left", f"a leave was answered {left['type']}")
        async with world.awaiting("the ack of a client that is no member"):
            await cy.send(type="publish", room=red, payload=1, ref="p")
            while (said := await cy.recv())["type"] not in ("ack", "error"):
                must(said["type"] != "message", "heard in a room that it never joined")
            must(
                said["type"] == "ack",
                f"to publish without being a member was answered {said.get('code')}",
            )
        async with world.awaiting("a message after another member's leave"):
            await bob.until("message")
            must(not await ann.heard(), "a message reached a client that had left")
        async with world.awaiting("what is said after joining again"):
            await ann.join(red)
            await cy.publish(red, 1)
            await ann.until("message")
            await bob.until("message")
            for client, says in (
                (ann, "heard twice after joining again"),
                (cy, "heard in a room that it never joined"),
            ):
                for message in await client.heard():
                    must(message["type"] != "message", says)
                    must(False, f"a second {message['type']} for one publish")


async def rooms_of_a_token_are_all(world: World) -> None:
    """A token's rooms are all that its client may join, and publish to."""
    red, team, blue = world.room("red"), world.room("team"), world.room("blue")
    async with world.running() as server:
        token = issue(secret_of(server), "ann", rooms=[red, f"{team}*"])
        async with (
            peer(server, "ann", token=token) as ann,
            peer(server, "bob") as bob,
            world.awaiting("answers to a client whose token names its rooms"),
        ):
            await bob.join(blue)
            for room in (red, f"{team}1"):
                kind = (await ann.join(room))["type"]
                must(kind == "joined", f"to join an allowed room was answered {kind}")
            for said in ({"type": "join"}, {"type": "publish", "payload": 1}):
                answer = await ann.ask(**said, room=blue)
                got = answer.get("code", answer["type"])
                must(
                    got == "forbidden",
                    f"to {said['type']} a room that the token does not name was "
                    f"answered {got}, not the error forbidden",
                )
            must(not await bob.heard(), "heard a client that may not speak there")


UNSERVED: list[tuple[Any, str]] = [
    ([], "bad_message"),
    (3, "bad_message"),
    ({"type": "shout", "payload": 1}, "unknown_type"),
    ({"type": "join"}, "bad_message"),
    ({"type": "join", "room": 3}, "bad_message"),
    ({"type": "join", "room": "no such name"}, "bad_message"),
    ({"type": "publish", "payload": 1}, "bad_message"),
    ({"type": "publish", "room": "lobby"}, "bad_message"),
]


async def what_cannot_be_served_is_answered(world: World) -> None:
    """A message of an unknown type or with a wrong field is answered with its error."""
    red = world.room("red")
    async with (
        world.running() as server,
        peer(server, "ann") as ann,
        peer(server, "bob") as bob,
        world.awaiting("the error for a message that cannot be served"),
    ):
        await bob.join(red)
        for number, (said, code) in enumerate(UNSERVED):
            words = json.dumps(said, separators=(",", ":"))
            if isinstance(said, dict):
                answer = await ann.ask(**said, ref=number)
            else:
                await ann.say(words)
                answer = await ann.recv()
            got = answer.get("code", answer["type"])
            must(got == code, f"{words} was answered {got}, not the error {code}")
        await ann.publish(red, 1)
        await bob.until("message")
        must(not await bob.heard(), "a message that cannot be served was delivered")


async def others_may_vanish(world: World) -> None:
    """Members that come, go and vanish cost those who stay no message."""
    red, count = world.room("red"), 100
    async with (
        world.running() as server,
        peer(server, "ann") as ann,
        peer(server, "bob", max_queue=None) as bob,
        AsyncExitStack() as stack,
    ):
        oracle = Oracle()
        oracle.saw(await bob.join(red))
        others = [
            await stack.enter_async_context(peer(server, f"f{number}", max_queue=None))
            for number in range(30)
        ]
        flappers, stayers = others[:10], others[10:]
        for other in stayers:  # the more members, the longer a message is under way
            await other.join(red)
        done = asyncio.Event()

        async def flap(client: Peer) -> None:
            with contextlib.suppress(ConnectionClosed):
                while not done.is_set():
                    await client.join(red)
                    await asyncio.sleep(world.chance.random() / 200)
                    await client.ask(type="leave", room=red)

        async def vanish() -> None:
            for number in range(10):
                async with peer(server, f"v{number}") as client:
                    await client.join(red)
                    client.socket.transport.abort()

        flapping = [asyncio.create_task(flap(each)) for each in flappers]
        vanishing = asyncio.create_task(vanish())
        try:
            seqs, what = list[int](), "a message while other members come and go"
            for _ in range(count):
                async with world.awaiting(what):
                    seqs += await ann.publish(red, 1)
            async with world.awaiting(what):
                await vanishing
                seqs += await ann.publish(red, 1)
                await bob.hear_until(oracle, red, seqs[-1])
        finally:
            done.set()
            for task in (*flapping, vanishing):
                task.cancel()
            await asyncio.gather(*flapping, vanishing, return_exceptions=True)
        silent = lost(oracle, red, seqs)
        lost_ = f"lost {len(silent)} of {len(seqs)} without a word, " * bool(silent)
        must(
            oracle.verdict.clean and not silent,
            f"a member that stayed while others came and went {lost_}{oracle.verdict}",
        )


async def each_room_counts_for_itself(world: World) -> None:
    """A room numbers its messages 1, 2, 3, and names the numbering."""
    red, blue = world.room("red"), world.room("blue")
    async with (
        world.running() as server,
        peer(server, "ann") as ann,
        peer(server, "bob") as bob,
    ):
        async with world.awaiting("the numbers of messages to two rooms"):
            for room in (red, blue):
                seq = (await ann.join(room))["seq"]
                must(seq == 0, f"a new room's first member is told seq {seq}, not 0")
                await bob.join(room)
            acks: dict[str, list[int]] = {red: [], blue: []}
            for room in (red, blue, red, blue, red):
                acks[room] += await ann.publish(room, 1)
            heard = [await bob.until("message") for _ in range(5)]  # or in vain
            heard += [each for each in await bob.heard() if each["type"] == "message"]
            for room, wanted in ((red, [1, 2, 3]), (blue, [1, 2])):
                seqs = [each["seq"] for each in heard if each["room"] == room]
                must(
                    seqs == wanted,
                    f"messages have the numbers {seqs}, not {wanted}, beside those "
                    "of another room",
                )
                must(
                    acks[room] == wanted,
                    f"messages {wanted} were acknowledged as {acks[room]}",
                )
        async with world.awaiting("the numbers of a room that was empty"):
            before = await ann.join(red)
            for client in (ann, bob):
                await client.ask(type="leave", room=red)
            after = await ann.join(red)
            must(
                after["epoch"] != before["epoch"] or after["seq"] >= before["seq"],
                f"a room that was empty counts from {after['seq']} again after "
                f"{before['seq']}, in the same epoch",
            )
            (seq,) = await ann.publish(red, 1)
            must(
                seq == after["seq"] + 1,
                f"number {seq} follows the joined with seq {after['seq']}",
            )


async def empty_rooms_are_forgotten(world: World) -> None:
    """Nothing is kept of an empty room, whether its members left or disconnected."""
    red, blue, green = "red-room", "blue-room", "green-room"

    def forgotten(room: str, because: str) -> None:
        kept = keepers(server, room)
        must(not kept, f"a room {because} is still {kept}")

    async with world.inside() as server:
        async with (
            peer(server, "ann") as ann,
            peer(server, "bob") as bob,
            world.awaiting("answers to join, leave and publish"),
        ):
            for client in (ann, bob):
                await client.join(red)
            _must_be_seen(server, red)
            await ann.join(blue)
            await ann.publish(blue, 1)
            await ann.ask(type="leave", room=blue)
            forgotten(blue, "that its last member has left")
            await ann.publish(green, 1)
            forgotten(green, "in which nobody ever was")
            must(bool(keepers(server, red)), "a room with members was forgotten")
        await _forgets(world, server, red, "a room whose last members disconnected")


async def who_ended_is_forgotten(world: World) -> None:
    """Nothing is kept of a connection that has ended, in however many rooms it was."""
    rooms = [f"room-{number}" for number in range(3)]
    async with world.inside() as server, peer(server, "bob") as bob:
        for how in ("said goodbye", "vanished"):
            async with (
                peer(server, "ann") as ann,
                world.awaiting("the joined of three rooms"),
            ):
                for client in (ann, ann, bob):  # twice: still one member
                    for room in rooms:
                        await client.join(room)
                ended = connection_of(server, "ann")
                _must_be_seen(server, ended)
                if how == "vanished":
                    ann.socket.transport.abort()
            what = f"a connection that {how} while it was in 3 rooms"
            await _forgets(world, server, ended, what)


def _must_be_seen(server: LabServer, wanted: LabConnection | str) -> None:
    """Raise Skipped if an application keeps what it has where nobody can look."""
    if not keepers(server, wanted):
        raise Skipped("the application keeps its rooms elsewhere than in attributes")


async def _forgets(
    world: World, server: LabServer, wanted: LabConnection | str, what: str
) -> None:
    """Return when nothing keeps something any more."""
    with contextlib.suppress(Broken):
        await world.eventually(what, lambda: not keepers(server, wanted))
    kept = keepers(server, wanted)
    must(not kept, f"{what} is still {kept}")


class Recorder:
    """An outbox that records the chunks that it gets."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.chunks: list[Chunk] = []
        self.given: Callable[[], object] | None = None
        self.control = outbox.control
        self.paused, self.resumed = outbox.paused, outbox.resumed
        self.waiting = outbox.waiting

    def deliver(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self.outbox.deliver(chunk)
        if self.given is not None:
            self.given()


def _recorded(server: LabServer, *users: str) -> list[Recorder]:
    recorders = []
    for user in users:
        connection = connection_of(server, user)
        connection.outbox = recorder = Recorder(connection.outbox)
        recorders.append(recorder)
    return recorders


async def coming_and_going_costs_nobody_a_message(world: World) -> None:
    """Members get every message while another one leaves during the delivery."""
    users = ("ann", "bob", "cy", "dan")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(world.inside())
        ann, *stay = [
            await stack.enter_async_context(peer(server, user)) for user in users
        ]
        for client in stay:
            await client.join("red")
        leaving = connection_of(server, "ann")

        def leave() -> None:
            server.application.closed(leaving)

        # ann leaves as soon as any member was given a message.
        for recorder in _recorded(server, *users):
            recorder.given = partial(asyncio.get_running_loop().call_soon, leave)
        for number in range(5):
            async with world.awaiting("a message while another member leaves"):
                await ann.join("red")
                await ann.send(type="publish", room="red", payload=number)
                for client in stay:
                    got = (await client.until("message"))["payload"]
                    must(got == number, f"heard {got} instead of {number}")


async def frame_is_built_once(world: World) -> None:
    """Members with the same wire variant get the same frame object."""
    async with (
        world.inside() as server,
        peer(server, "ann") as ann,
        peer(server, "bob") as bob,
        peer(server, "cy") as cy,
    ):
        await bob.join("red")
        await cy.join("red")
        bobs, cys = _recorded(server, "bob", "cy")
        async with world.awaiting("a message"):
            for _ in range(3):  # two in one tick would share a frame
                await ann.publish("red", 1, size=200)
                await bob.until("message")
                await cy.until("message")
        must(bool(bobs.chunks), "messages came, and not through the outbox's deliver")
        pairs = zip(bobs.chunks, cys.chunks, strict=True)
        built = sum(1 if one is other else 2 for one, other in pairs)
        must(built == 3, f"{built} frames were built for 3 messages to 2 members")


async def messages_of_a_tick_share_a_write(world: World) -> None:
    """Messages that reach a room in one tick are written to each member together."""
    count = 20
    async with (
        world.inside() as server,
        peer(server, "bob") as bob,
    ):
        await bob.join("red")
        if not isinstance(server.application, RoomsApplication):
            raise Skipped("asks the hub, which this application does without")
        (bobs,) = _recorded(server, "bob")
        for number in range(count):
            server.parts.broker.publish("red", b'"from":"x","payload":%d}' % number)
        async with world.awaiting("a message"):
            for _ in range(count):
                await bob.until("message")
        writes = len(bobs.chunks)
        must(writes <= count / 2, f"{writes} writes for {count} messages of one tick")
