"""What must hold at the end of a simulated world, for every client and every server."""

from __future__ import annotations

import math
from collections.abc import Iterator

from labserver.judge.oracle import disagreements
from labserver.redis.messages import key_of, keys_of
from labserver.simulated.crowd import Member
from labserver.simulated.loop import Process
from labserver.simulated.world import Replica, World


def audit(world: World) -> Iterator[str]:
    """Yield what is wrong with the messages that clients got."""
    for member in world.members:
        if member.failed:
            yield member.failed
        verdict = member.oracle.verdict
        if not verdict.clean:
            yield f"{member.name}: {verdict}"
    if wrong := disagreements(each.oracle for each in world.members):
        yield f"two clients got different messages at {wrong[0]}"
    gone = _gone(world)
    world.met["acknowledged messages that are gone"] += len(gone)
    for member in world.members:
        for room in member.rooms if member.stable else ():
            yield from _lost(world, member, room, gone)
    if world.scenario.confirm and not world.wiped:
        for text, server in sorted(gone.items()):
            yield f"{text} was confirmed to {server.name}, and is gone"
    yield from _went_on(world)
    yield from _in_vain(world)


def _lost(
    world: World, member: Member, room: str, gone: dict[str, Process]
) -> Iterator[str]:
    """Yield what one client lacks of a room, or got twice, without being told.

    A server tells what is gone as soon as Redis has a new primary. When it dies with
    the old one, nobody knows what it acknowledged.
    """
    texts, told = member.texts[room], member.told_at.get(room, 0.0)
    since = member.entered.get(room, math.inf)
    for text, count in texts.items():
        if count > 1 and told < _began(world, text):
            yield f"{member.name} got {text} {count} times"
    acknowledged = {
        text
        for each in world.members
        for text, where in each.acknowledged.items()
        if where == room
        and max(since, told) < each.began[text]
        and not (text in gone and gone[text].dead)
    }
    if missed := sorted(acknowledged - texts.keys()):
        more = f" and {len(missed) - 1} more" if missed[1:] else ""
        yield f"{member.name} lacks {missed[0]}{more}, and was not told"
    # It got them perhaps, and cannot know that nobody else can read them any more.
    if void := sorted(acknowledged & gone.keys() & texts.keys()):
        yield f"{member.name} got {void[0]}, which is gone, and was not told"


def _began(world: World, text: str) -> float:
    """Return when a text was published for the first time."""
    name = text.partition("/")[0]
    speaker = next((m for m in world.members if m.name == name), world.members[0])
    return speaker.began[text]


def _gone(world: World) -> dict[str, Process]:
    """Return the texts that Redis has lost, and the servers that acknowledged them.

    A message and its idempotency key are written together, and a key lives longer than
    a world.
    """
    get, gone = world.stored.get, {}
    for member in world.members:
        for text, room in member.acknowledged.items():
            key = key_of(room, member.name, text)
            if get(key.encode()) is None:
                gone[text] = member.answered[text]
    return gone


def _went_on(world: World) -> Iterator[str]:
    """Yield where a client was told that an epoch goes on, and it did not."""
    epochs = world.epochs
    for member in world.members:
        for room, place, epoch in member.went_on:
            before, base = epochs.get(epoch, ("", -1))
            shared = before == place["epoch"] and place["seq"] <= base
            if epoch != place["epoch"] and not shared:
                yield (
                    f"{member.name} was told that {epoch} of {room} goes on from "
                    f"{place['epoch']}:{place['seq']}, but it went on from "
                    f"{before or 'nothing'}:{base}"
                )


def _in_vain(world: World) -> Iterator[str]:
    """Yield where a client was told of a loss, and nothing was lost."""
    store = world.stored
    for member in world.members if not world.scenario.narrow else ():
        if member.role == "wanderer":  # it comes back without a cursor
            continue
        for room, place, epoch in member.refused:
            known, (before, base) = place["epoch"], store.epochs.get(epoch, ("", -1))
            # The new epoch has all that the old one had. Or some of it was lost, and a
            # client may be told of that which has not seen the lost part itself.
            whole = known == epoch or (known == before and store.tops[known] == base)
            if known == epoch and place["seq"] <= max(0, base):
                # A Redis that lost everything keeps no messages of a room until it has
                # told somebody its new epoch. Who has seen none of it may lack these.
                whole = _first_kept(world, room, epoch) <= place["seq"] + 1
            if whole and store.tops[epoch] < world.scenario.history:
                yield f"{member.name} was told of a loss in {room} in vain"


def _first_kept(world: World, room: str, epoch: str) -> float:
    """Return the oldest seq in a room's history; infinity if the epoch is over."""
    now, history = (world.stored.get(name.encode()) for name in keys_of(room))
    if not isinstance(now, dict) or now[b"epoch"] != epoch.encode():
        return math.inf
    return history[0][0] if history else world.stored.tops[epoch] + 1


def apart(world: World) -> Iterator[str]:
    """Yield which clients do not have the newest message of a room."""
    for room in world.rooms:
        places = positions(world, room)
        if len(set(places.values())) > 1:
            yield f"clients are at different positions of {room}: {places}"


def positions(world: World, room: str) -> dict[str, str]:
    """Return, by client, the epoch and the seq of its newest message of a room."""
    cursors = {
        member.name: member.oracle.cursor(room) or {"epoch": "", "seq": -1}
        for member in world.members
        if room in member.rooms
    }
    return {name: f"{at['epoch']}:{at['seq']}" for name, at in cursors.items()}


def caught_up(world: World) -> bool:
    """Return whether somebody has the last message of each room, and all are there."""
    ended = all(
        any(member.texts[room][f"the end of {room}"] for member in world.members)
        for room in world.rooms
        if positions(world, room)
    )
    return ended and not any(apart(world))


def present(world: World) -> Iterator[str]:
    """Yield what is wrong with the people that clients see."""
    for room in world.rooms:
        here = sorted(
            each.name for each in world.members if each.presence and room in each.rooms
        )
        for member in world.members:
            if member.presence and room in member.rooms:
                seen = sorted(member.seen.get(room, {}).values())
                if seen != here:
                    yield f"{member.name} sees {seen} in {room}, but {here} are there"


def left_behind(replica: Replica) -> Iterator[str]:
    """Yield what a server still holds after all clients have left."""
    server = replica.server
    if server is None:
        yield f"{replica.name} does not run"
        return
    broker = server.parts.broker
    feeds = getattr(broker, "feeds", {})
    nodes = broker.redis.everywhere if hasattr(broker, "redis") else ()
    subscribed = {room for node in nodes for room in node.link.rooms}
    held = {
        "sockets": server.sockets,
        "connections": server.connections,
        "conversations": server.conversations,
        "rooms": server.hub.rooms,
        "audiences": server.attendance.audiences,
        "feeds": feeds,
        "subscriptions": subscribed - feeds.keys(),
        "readings": broker.histories.readings if hasattr(broker, "histories") else (),
        "places": range(server.parts.admission.places.taken),
        "pinged": getattr(server.parts.heartbeat, "slot_of", ()),
    }
    for name, what in held.items():
        if len(what):
            yield f"{replica.name} still holds {len(what)} {name}"
    if failures := server.metrics.failures:
        yield f"{replica.name}: tasks failed: {dict(failures)}"
