"""Mistakes of stage rooms: leaks, duplicates, and work repeated for each member."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from labserver.contract import wire
from labserver.contract.messages import Event, Join
from labserver.mistakes.mistake import Extend, Mistake
from labserver.server.hub import Room
from labserver.server.member import Member
from labserver.server.parts import Lab, Parts
from labserver.settings import Settings
from labserver.stages.rooms import RoomsApplication

log = logging.getLogger("labserver")


class RoomsNeverForgotten(RoomsApplication):
    """Clean up on ``leave``, but not when a connection ends."""

    def closed(self, member: Member) -> None:
        pass


class OwnFanOut(RoomsApplication):
    """An application that writes to the members by itself.

    The hub is not a part, so its loop is replaced when the application gets it.
    """

    def __init__(self, lab: Lab, rooms_limit: int) -> None:
        super().__init__(lab, rooms_limit)
        lab.hub.flush = self.flush  # type: ignore[method-assign]

    def flush(self, room: Room) -> None:
        events, room.pending = room.pending, []
        if events:
            self.send(room, events)

    def send(self, room: Room, events: Sequence[Event]) -> None:
        raise NotImplementedError


class ListenerPerJoin(OwnFanOut):
    """Add a listener on every join, like an event emitter."""

    def __init__(self, lab: Lab, rooms_limit: int) -> None:
        super().__init__(lab, rooms_limit)
        self.listeners: defaultdict[str, list[Member]] = defaultdict(list)

    async def join(self, member: Member, message: Join) -> None:
        await super().join(member, message)
        self.listeners[message.room].append(member)

    def send(self, room: Room, events: Sequence[Event]) -> None:
        for listener in self.listeners[room.name]:
            chunk = wire.chunk(listener.variant, room.name, events)
            listener.outbox.deliver(chunk)


class LiveSet(OwnFanOut):
    """Loop over the live set of members, with an ``await`` in the loop."""

    def __init__(self, lab: Lab, rooms_limit: int) -> None:
        super().__init__(lab, rooms_limit)
        self.tasks: set[asyncio.Task[None]] = set()

    def send(self, room: Room, events: Sequence[Event]) -> None:
        task = asyncio.create_task(self.broadcast(room, events))
        self.tasks.add(task)
        task.add_done_callback(self.done)

    async def broadcast(self, room: Room, events: Sequence[Event]) -> None:
        for variant, members in room.members.items():
            shared = wire.chunk(variant, room.name, events)
            for member in members:
                member.outbox.deliver(shared)
                await asyncio.sleep(0)  # like `await member.send()`

    def done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            log.warning("a broadcast ended: %s", problem)


class EncodedPerMember(OwnFanOut):
    """Build the frames again for each member."""

    def send(self, room: Room, events: Sequence[Event]) -> None:
        for variant, members in room.members.items():
            for member in members:
                member.outbox.deliver(wire.chunk(variant, room.name, events))


class WritePerMessage(OwnFanOut):
    """Write each message on its own, however many came in the same tick."""

    def send(self, room: Room, events: Sequence[Event]) -> None:
        for event in events:
            for variant, members in room.members.items():
                shared = wire.chunk(variant, room.name, [event])
                for member in members:
                    member.outbox.deliver(shared)


def _application(made: Callable[[Lab, int], RoomsApplication]) -> Extend:
    def extend(parts: Parts, settings: Settings) -> Parts:
        limit = settings.rooms_limit
        return replace(parts, application=lambda lab: made(lab, limit))

    return extend


MISTAKES = (
    Mistake(
        "listener-per-join",
        "rooms",
        "A client that joins twice gets everything twice, also after it has left.",
        "a tutorial on Node's ws: join adds a listener on every call",
        "everyone_hears_it_once",
        _application(ListenerPerJoin),
    ),
    Mistake(
        "rooms-never-forgotten",
        "rooms",
        "Rooms keep connections that have ended, until the memory is full.",
        "a tutorial on Node's ws: an empty room is never deleted",
        "empty_rooms_are_forgotten",
        _application(RoomsNeverForgotten),
    ),
    Mistake(
        "live-set",
        "rooms",
        "A client joins or leaves during a delivery: RuntimeError, and the "
        "rest of the room never gets the message.",
        "the loop over connections in the FAQ of websockets",
        "coming_and_going_costs_nobody_a_message",
        _application(LiveSet),
    ),
    Mistake(
        "encoded-per-member",
        "rooms",
        "The same frame is built, and compressed, once for each member.",
        "websockets.broadcast() frames per connection: 75k deliveries a second with "
        "deflate where shared frames give 242k",
        "frame_is_built_once",
        _application(EncodedPerMember),
    ),
    Mistake(
        "write-per-message",
        "rooms",
        "Each message is a system call for each member: 0.2 million deliveries a "
        "second instead of several.",
        "a tutorial on Node's ws, and every loop that sends message by message",
        "messages_of_a_tick_share_a_write",
        _application(WritePerMessage),
    ),
)
