"""A client that comes back misses nothing, or is told; and it spreads its retries."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from labserver.client import Backoff, Rejected
from labserver.contract.closing import FORBIDDEN
from labserver.contract.tokens import issue
from labserver.judge.oracle import Oracle, lost
from labserver.judge.peers import secret_of
from labserver.judge.world import Peer, World, connection_of, must, peer, until
from labserver.server.parts import Position

LIMIT = 20  # messages that a room remembers


async def nothing_falls_between_replay_and_live(world: World) -> None:
    """Messages published while a client rejoins arrive once and in order."""
    async with (
        world.inside(history_limit=100) as server,
        peer(server, "ann") as ann,
    ):
        oracle = Oracle()
        async with world.awaiting("messages"), peer(server, "bob") as bob:
            oracle.saw(await bob.join("lobby"))
            seqs = await ann.publish("lobby", 5)
            for _ in range(5):
                oracle.saw(await bob.until("message"))
        seqs += await ann.publish("lobby", 5)
        # A message is published before and after every step of the join, so that the
        # worst moments are tested for certain.
        broker = server.parts.broker

        def heard() -> bool:
            room = server.hub.rooms.get("lobby")
            lives = [entry.live for entry in room.entries] if room else []
            return all(live and live[-1].last >= seqs[-1] for live in lives)

        def interrupted(step: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
            async def otherwise(*args: Any) -> Any:
                seqs.extend(await ann.publish("lobby", 1))
                result = await step(*args)
                seqs.extend(await ann.publish("lobby", 1))
                await until(heard)  # it may still be on its way from Redis
                return result

            return otherwise

        broker.subscribe = interrupted(broker.subscribe)  # type: ignore[method-assign]
        broker.read = interrupted(broker.read)  # type: ignore[method-assign]
        async with world.awaiting("messages"), peer(server, "bob") as bob:
            await bob.send(type="join", room="lobby", after=oracle.cursor("lobby"))
            joined = await bob.until("joined")
            oracle.saw(joined)
            must(joined["recovered"], "it was not recovered, within the limit")
            seqs += await ann.publish("lobby", 3)
            await bob.hear_until(oracle, "lobby", seqs[-1])
        gone = lost(oracle, "lobby", seqs)
        must(
            oracle.verdict.clean and not gone,
            f"{len(gone)} lost without a gap; {oracle.verdict}",
        )


async def coming_back_while_others_speak(world: World) -> None:
    """Who comes back again and again while others speak gets all, once, in order."""
    lobby, times = world.room("lobby"), 30
    async with (
        world.running() as server,
        world.uneven_redis(),
        peer(server, "ann", max_queue=None) as ann,
        AsyncExitStack() as stack,
    ):
        oracle, seqs, done = Oracle(), list[int](), asyncio.Event()

        async def speak(client: Peer) -> None:
            said = {"type": "publish", "room": lobby, "payload": 1, "ref": "p"}
            while not done.is_set():
                for _ in range(4):
                    await client.send(**said)
                for _ in range(4):
                    answer = await client.recv()
                    if answer["type"] == "ack":
                        seqs.append(answer["seq"])
                await asyncio.sleep(world.chance.random() / 100)

        async with world.awaiting("a first message"), peer(server, "bob") as bob:
            oracle.saw(await bob.join(lobby))
            seqs += await ann.publish(lobby, 1)
            oracle.saw(await bob.until("message"))
        speakers = [
            await stack.enter_async_context(peer(server, f"s{number}", max_queue=None))
            for number in range(4)
        ]
        speaking = [asyncio.create_task(speak(each)) for each in speakers]
        try:
            for _ in range(times):
                async with (
                    world.awaiting("a joined, and a message"),
                    peer(server, "bob", max_queue=None) as bob,
                ):
                    after = oracle.cursor(lobby)
                    await bob.send(type="join", room=lobby, after=after, ref="j")
                    joined = await bob.until("joined")
                    oracle.saw(joined)
                    must(joined["recovered"], "not recovered, within the limit")
                    # Only a live message shows a hole between the replay and it.
                    await bob.hear_until(oracle, lobby, joined["seq"] + 1)
        finally:
            done.set()
            await asyncio.wait(speaking, timeout=world.patience)
            for task in speaking:
                task.cancel()
            await asyncio.gather(*speaking, return_exceptions=True)
        async with world.awaiting("the last message"), peer(server, "bob") as bob:
            await bob.send(type="join", room=lobby, after=oracle.cursor(lobby))
            oracle.saw(await bob.until("joined"))
            await bob.hear_until(oracle, lobby, max(seqs))
        gone = lost(oracle, lobby, seqs)
        must(
            oracle.verdict.clean and not gone,
            f"{len(gone)} of {len(seqs)} lost without a word, over {times} returns; "
            f"{oracle.verdict}",
        )


async def same_key_is_published_once(world: World) -> None:
    """A publish that is sent again with its key is not delivered again."""
    lobby = world.room("lobby")
    async with (
        world.running() as server,
        peer(server, "ann") as ann,
        peer(server, "bob") as bob,
    ):
        async with world.awaiting("acks and a message"):
            await bob.join(lobby)
            seqs = []
            for _ in range(2):
                said = {"type": "publish", "room": lobby, "payload": 1, "key": "k1"}
                seqs.append((await ann.ask(**said))["seq"])
            last = await ann.ask(type="publish", room=lobby, payload="last")
            oracle = Oracle()
            await bob.hear_until(oracle, lobby, last["seq"])
        must(seqs[0] == seqs[1], f"the same key was given two numbers, {seqs}")
        heard = oracle.verdict.received
        must(heard == 2, f"{heard} messages, where one was sent twice and one once")


async def replay_races_with_live_messages(world: World) -> None:
    """Live messages never overtake a replay, nor repeat it."""
    lobby = world.room("lobby")
    async with (
        world.running(history_limit=LIMIT) as server,
        peer(server, max_queue=None) as ann,
    ):
        async with world.awaiting("messages"), peer(server, "bob") as bob:
            joined = await bob.join(lobby)
            await ann.publish(lobby, 5)
            for _ in range(5):
                last = await bob.until("message")
        must(joined["recovered"] is False, "recovered without a cursor")
        cursor = {"epoch": joined["epoch"], "seq": last["seq"]}
        await ann.publish(lobby, LIMIT)
        async with world.awaiting("messages"), peer(server, "bob") as bob:
            speaking = asyncio.create_task(ann.publish(lobby, 10))
            joined = await bob.join(lobby, after=cursor)
            # If live messages pushed the oldest out, there is no replay.
            first = 6 if joined["recovered"] else joined["seq"] + 1
            oracle = Oracle()
            await bob.hear_until(oracle, lobby, (await speaking)[-1])
        got = [seq for _, _, seq in oracle.payloads()]
        must(got == list(range(first, 36)), f"{got} after seq {first - 1}")
        must(oracle.verdict.clean, str(oracle.verdict))


async def cursor_that_is_too_old_is_refused(world: World) -> None:
    """A replay is complete, or there is none and the client is told so."""
    lobby = world.room("lobby")
    async with (
        world.running(history_limit=LIMIT) as server,
        peer(server, max_queue=None) as ann,
    ):
        epoch = (await ann.join(lobby))["epoch"]
        await ann.publish(lobby, LIMIT + 5)
        async with world.awaiting("a joined"), peer(server, "bob") as bob:
            joined = await bob.join(lobby, after={"epoch": epoch, "seq": 4})
            heard = await bob.heard()
            must(
                not joined["recovered"],
                f"recovered, with {len(heard)} of {LIMIT + 1} missed messages",
            )
            must(joined["seq"] == LIMIT + 5, "told another seq than the room's")
            must(not heard, f"{len(heard)} messages of a replay that did not happen")
            joined = await bob.join(lobby, after={"epoch": epoch, "seq": 5})
            must(joined["recovered"], "not recovered, though all messages are kept")


async def cursor_that_means_nothing_is_refused(world: World) -> None:
    """A cursor of another epoch, or ahead of the room, recovers nothing."""
    lobby = world.room("lobby")
    async with (
        world.running() as server,
        peer(server, max_queue=None) as ann,
    ):
        epoch = (await ann.join(lobby))["epoch"]
        await ann.publish(lobby, 10)
        cursors = ({"epoch": "nonsense", "seq": 8}, {"epoch": epoch, "seq": 11})
        for cursor in cursors:
            async with world.awaiting("a joined"), peer(server, "bob") as bob:
                joined = await bob.join(lobby, after=cursor)
                must(not joined["recovered"], f"recovered by a cursor {cursor}")
                must(joined["seq"] == 10, "told another seq than the room's")


async def cursor_of_another_room_is_no_licence(world: World) -> None:
    """A cursor of another room is refused, or replays this room's own messages."""
    lobby, other = world.room("lobby"), world.room("other")
    async with (
        world.running() as server,
        peer(server, max_queue=None) as ann,
    ):
        epoch = (await ann.join(other))["epoch"]
        await ann.join(lobby)
        async with world.awaiting("acks"):
            await ann.publish(other, 5)
            seqs = await ann.publish(lobby, 3)
        async with world.awaiting("a joined"), peer(server, "bob") as bob:
            joined = await bob.join(lobby, after={"epoch": epoch, "seq": 5})
            must(
                not joined["recovered"],
                "recovered by seq 5 of another room, in a room with 3 messages",
            )
            after = {"epoch": epoch, "seq": 1}
            joined = await bob.join(lobby, after=after)
            got = [each["seq"] for each in await bob.heard() if "payload" in each]
            # A server may name the numbering of all its rooms alike.
            must(
                got == (seqs[1:] if joined["recovered"] else []),
                f"{got} came after seq 1 of another room",
            )


async def who_missed_nothing_is_told_so(world: World) -> None:
    """A client that has the newest message is recovered, and gets nothing again."""
    lobby = world.room("lobby")
    async with world.running() as server, peer(server) as ann:
        epoch = (await ann.join(lobby))["epoch"]
        await ann.publish(lobby, 3)
        async with world.awaiting("a joined"), peer(server, "bob") as bob:
            joined = await bob.join(lobby, after={"epoch": epoch, "seq": 3})
            heard = await bob.heard()
        must(joined["recovered"], "not recovered after the newest message, seq 3")
        must(not heard, f"{len(heard)} messages came after the newest one")


async def who_returns_together_gets_its_own(world: World) -> None:
    """Each of a crowd that comes back at once gets what it missed, and no more."""
    lobby, count = world.room("lobby"), 16
    async with (
        world.running(history_limit=100) as server,
        peer(server, max_queue=None) as ann,
        AsyncExitStack() as stack,
    ):
        epoch = (await ann.join(lobby))["epoch"]
        await ann.publish(lobby, 2 * count)
        crowd = [
            await stack.enter_async_context(peer(server, f"b{seq}", max_queue=None))
            for seq in range(1, count + 1)
        ]
        async with world.awaiting("a joined, and what was missed"):
            for seq, each in enumerate(crowd, start=1):
                after = {"epoch": epoch, "seq": seq}
                await each.send(type="join", room=lobby, after=after)
            for seq, each in enumerate(crowd, start=1):
                joined = await each.until("joined")
                must(joined["recovered"], "not recovered, within the limit")
                got = [message["seq"] for message in await each.heard()]
                twice = [number for number in got if number <= seq]
                must(not twice, f"seqs {twice} came again, after seq {seq}")
                want = list(range(seq + 1, 2 * count + 1))
                must(got == want, f"seqs {got} came after seq {seq}, not {want}")


async def replay_is_not_larger_than_an_outbox(world: World) -> None:
    """A replay that would end its client is refused, and the client stays."""
    lobby = world.room("lobby")
    async with (
        world.inside(outbox_limit=65536, send_buffer=16384) as server,
        peer(server, max_queue=None) as ann,
    ):
        epoch = (await ann.join(lobby))["epoch"]
        await ann.publish(lobby, 60, 4000)
        async with (
            world.awaiting("a joined, and what was missed, over 240,000 bytes"),
            peer(server, "bob") as bob,
        ):
            joined = await bob.join(lobby, after={"epoch": epoch, "seq": 0})
            heard = await bob.heard()
        must(
            not joined["recovered"],
            f"recovered, with {len(heard)} messages of 4,000 bytes (outbox 65,536)",
        )


async def numbering_that_goes_on_recovers(world: World) -> None:
    """A cursor of the epoch before is good up to the last seq that both share."""
    lobby = world.room("lobby")
    async with (
        world.inside(history_limit=LIMIT) as server,
        peer(server, max_queue=None) as ann,
    ):
        epoch = (await ann.join(lobby))["epoch"]
        await ann.publish(lobby, 10)
        read = server.parts.broker.read

        async def promoted(room: str, after: int | None) -> Position:
            # As if another Redis, which had the first 9 messages, had numbered the
            # tenth.
            position = await read(room, after)
            return replace(position, epoch="promoted", before=(epoch, 9))

        server.parts.broker.read = promoted  # type: ignore[method-assign]
        for seq, good in ((8, True), (10, False)):
            async with world.awaiting("a joined"), peer(server, "bob") as bob:
                joined = await bob.join(lobby, after={"epoch": epoch, "seq": seq})
                got = [message["seq"] for message in await bob.heard()]
            must(
                joined["recovered"] is good,
                f"{'' if good else 'not '}refused after seq {seq} of the epoch before, "
                "with which this one shares the seqs up to 9",
            )
            must(got == ([9, 10] if good else []), f"seqs {got} came after {seq}")


async def room_remembers_its_own_messages(world: World) -> None:
    """The history of a room does not depend on messages of other rooms."""
    quiet, loud = world.room("quiet"), world.room("loud")
    async with (
        world.running(history_limit=LIMIT) as server,
        peer(server, max_queue=None) as ann,
    ):
        epoch = (await ann.join(quiet))["epoch"]
        await ann.publish(quiet, 5)
        await ann.publish(loud, LIMIT + 5)
        async with world.awaiting("a joined"), peer(server, "bob") as bob:
            joined = await bob.join(quiet, after={"epoch": epoch, "seq": 2})
            must(joined["recovered"], "5 messages forgotten, of 20 that a room keeps")


async def history_is_forgotten_with_age(world: World) -> None:
    """Messages older than ``history_ttl`` are not replayed."""
    lobby = world.room("lobby")
    async with (
        world.running(history_ttl=0.2) as server,
        peer(server, max_queue=None) as ann,
    ):
        cursor = {"epoch": (await ann.join(lobby))["epoch"], "seq": 1}
        await ann.publish(lobby, 3)

        async def forgotten() -> bool:
            return not (await ann.join(lobby, after=cursor))["recovered"]

        await world.eventually("old messages to be forgotten", forgotten)


# Clients


def _backoffs(world: World, count: int) -> list[Backoff]:
    """Return the back-offs of many clients, without connecting them."""
    return [world.make_client("ws://nowhere").backoff for _ in range(count)]


def _must_be_spread(delays: list[float], what: str) -> None:
    """Raise Broken if a third of the clients return in the same tenth of the time."""
    tenth = (max(delays) or 1.0) / 10
    ((_, most),) = Counter(int(at / tenth) for at in delays).most_common(1)
    must(
        most < len(delays) / 3,
        f"{most} of {len(delays)} clients return {what} in the same tenth of the time",
    )


async def first_attempts_are_spread(world: World) -> None:
    """Clients that lost the same server do not return at the same moment."""
    draw = random.Random(1).random
    _must_be_spread([each.next(draw) for each in _backoffs(world, 1000)], "at first")


async def late_attempts_are_spread(world: World) -> None:
    """After a long outage the longest waits are spread, too."""
    draw = random.Random(2).random
    backoffs = _backoffs(world, 1000)
    for _ in range(12):
        delays = [each.next(draw) for each in backoffs]
    _must_be_spread(delays, "at last")


async def first_attempt_comes_soon(world: World) -> None:
    """The first wait is at most ``first``, so a short break costs little time."""
    (backoff,) = _backoffs(world, 1)
    longest = backoff.next(lambda: 1.0)
    must(
        longest <= backoff.first,
        f"the first wait is up to {longest:g} s, not at most {backoff.first:g} s",
    )


async def client_stays_away_when_told(world: World) -> None:
    """A client that is closed with a terminal code does not come back."""
    make = world.make_client
    async with (
        world.inside() as server,
        make(server.url, issue(secret_of(server), "ann")) as client,
    ):
        connection_of(server, "ann").end(FORBIDDEN)

        async def listen() -> None:
            try:
                async for _ in client:
                    pass
            except Rejected:
                pass

        listening = asyncio.create_task(listen())
        await world.eventually(
            "the client to give up, or to come back",
            lambda: listening.done() or client.connects > 1,
        )
        must(client.connects == 1, "came back after 4403 forbidden")
        listening.cancel()
