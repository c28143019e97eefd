"""What must hold at the end of a simulated world, for every client and every server."""

from __future__ import annotations

import math
from collections.abc import Iterator

from labserver.judge.oracle import disagreements
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
    yield from _lost(world)
    yield from _went_on(world)


def _lost(world: World) -> Iterator[str]:
    acknowledged = {
        (room, text): member.began[text]
        for member in world.members
        for text, room in member.acknowledged.items()
    }
    published = {
        room: {text for each in world.members for text in each.texts[room]}
        for room in world.rooms
    }
    # A Redis that lost writes may have lost keys, and what it had acknowledged.
    for member in world.members if not world.forgot else ():
        for room in member.rooms if member.stable else ():
            texts = member.texts[room]
            # The first ``joined`` never recovers: it counts as told, but no loss.
            if member.told[room] > 1:
                # A replay that does not fit into an outbox is refused, as is a cursor
                # of the epoch before the last one. Then all of the new epoch comes.
                fits = not world.scenario.narrow and len(world.primaries) <= 2
                if fits and len(published[room]) < world.scenario.history:
                    yield f"{member.name} was told of a loss in {room} in vain"
                continue
            for text, count in texts.items():
                if count > 1:
                    yield f"{member.name} got {text} {count} times"
            since = member.entered.get(room, math.inf)
            missed = [
                text
                for (where, text), began in acknowledged.items()
                if where == room and began > since and text not in texts
            ]
            if missed:
                more = f" and {len(missed) - 1} more" if missed[1:] else ""
                yield f"{member.name} lacks {missed[0]}{more}, and was not told"


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
    held = {
        "sockets": server.sockets,
        "connections": server.connections,
        "conversations": server.conversations,
        "rooms": server.hub.rooms,
        "audiences": server.attendance.audiences,
        "feeds": getattr(broker, "feeds", ()),
        "readings": broker.histories.readings if hasattr(broker, "histories") else (),
        "places": range(server.parts.admission.places.taken),
        "pinged": getattr(server.parts.heartbeat, "slot_of", ()),
    }
    for name, what in held.items():
        if len(what):
            yield f"{replica.name} still holds {len(what)} {name}"
    if failures := server.metrics.failures:
        yield f"{replica.name}: tasks failed: {dict(failures)}"
