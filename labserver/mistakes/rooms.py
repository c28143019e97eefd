"""Wrong ways to keep rooms: lists that grow, sets that move, work done again."""

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
    """Clean up on ``leave``, and forget that people just go."""

    def closed(self, member: Member) -> None:
        pass


class OwnFanOut(RoomsApplication):
    """An application that writes to the members by itself.

    The hub is no part, so its loop is exchanged where the application meets it.
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
    """Add a listener on every join, as an event emitter would."""

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
    """Go through the members themselves, and let others run meanwhile."""

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
                await asyncio.sleep(0)  # as `await member.send()` would

    def done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            log.warning("a broadcast ended: %s", problem)


class EncodedPerMember(OwnFanOut):
    """Build each member's frames anew."""

    def send(self, room: Room, events: Sequence[Event]) -> None:
        for variant, members in room.members.items():
            for member in members:
                member.outbox.deliver(wire.chunk(variant, room.name, events))


class WritePerMessage(OwnFanOut):
    """Write each message by itself, however many came in the same tick."""

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
        "Who joins twice hears everything twice, and who left hears on.",
        "the article: join adds a listener on every call",
        "everyone_hears_it_once",
        _application(ListenerPerJoin),
    ),
    Mistake(
        "rooms-never-forgotten",
        "rooms",
        "Rooms fill with connections that are gone, until memory ends.",
        "the article: an empty room is never deleted",
        "empty_rooms_are_forgotten",
        _application(RoomsNeverForgotten),
    ),
    Mistake(
        "live-set",
        "rooms",
        "Somebody joins or leaves while a message goes round: RuntimeError, and the "
        "rest of the room never gets it.",
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
        "the article's loop, and every other that sends message by message",
        "messages_of_a_tick_share_a_write",
        _application(WritePerMessage),
    ),
)
