"""Mistakes of stage backpressure: hold everything, wait, or drop in silence."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from labserver.contract import wire
from labserver.contract.messages import Event
from labserver.contract.wire import Chunk
from labserver.mistakes.mistake import Extend, Mistake
from labserver.server.connection import LabConnection
from labserver.server.hub import Hub, Room
from labserver.server.member import Outbox, Reader
from labserver.server.metrics import Metrics
from labserver.server.parts import Application, Lab, Parts
from labserver.settings import Settings
from labserver.stages.backlog import Backlog
from labserver.stages.backpressure import BoundedOutbox


class UnboundedBuffer(BoundedOutbox):
    """Hold all unread messages, without a limit: the reader will catch up."""

    def hold(self, chunk: Chunk) -> None:
        self.backlog = self.backlog or Backlog()
        self.backlog.hold(chunk)


class DroppedInSilence(BoundedOutbox):
    """Drop messages for a slow reader, without telling it."""

    def hold(self, chunk: Chunk) -> None:
        if self.waiting() + len(chunk.data) <= self.limit:
            super().hold(chunk)
        else:
            self.metrics.drops += len(chunk)


class ControlDropped(BoundedOutbox):
    """Drop every frame that does not fit, also answers."""

    def control(self, frame: bytes) -> None:
        if self.waiting() + len(frame) <= self.limit:
            super().control(frame)


class AwaitedSends:
    """A loop over the members that waits for each before it writes to the next."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.queues: dict[str, deque[Sequence[Event]]] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def flush(self, room: Room) -> None:
        events, room.pending = room.pending, []
        if not events:
            return
        if room.name not in self.queues:
            self.queues[room.name] = deque()
            task = asyncio.create_task(self.run(room.name))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        self.queues[room.name].append(events)

    async def run(self, name: str) -> None:
        while self.queues[name]:
            events = self.queues[name].popleft()
            room = self.hub.rooms.get(name, Room(name))
            for variant, members in list(room.members.items()):
                shared = wire.chunk(variant, name, events)
                for member in list(members):
                    member.outbox.deliver(shared)
                    if isinstance(member, LabConnection):
                        with contextlib.suppress(ConnectionError):
                            await member.drain()
        del self.queues[name]


def await_in_the_loop(parts: Parts, settings: Settings) -> Parts:
    def application(lab: Lab) -> Application:
        # The hub is not a part, so its loop is replaced when the application gets it.
        lab.hub.flush = AwaitedSends(lab.hub).flush  # type: ignore[method-assign]
        return parts.application(lab)

    return replace(parts, application=application)


Made = Callable[[Settings, Reader, Metrics], Outbox]


def _outbox(made: Made) -> Extend:
    def extend(parts: Parts, settings: Settings) -> Parts:
        return replace(parts, outbox=partial(made, settings))

    return extend


MISTAKES = (
    Mistake(
        "unbounded-buffer",
        "backpressure",
        "The unread messages of one slow reader fill the server's memory.",
        "websockets.broadcast() and ws.send() have no bound",
        "what_is_held_stays_bounded",
        _outbox(UnboundedBuffer),
    ),
    Mistake(
        "await-in-the-loop",
        "backpressure",
        "One stalled reader holds up its whole room (head-of-line blocking).",
        "for ws in room: await ws.send(); with one of ten stalled, the others got 15 "
        "of 2000 messages",
        "the_others_are_not_held_up",
        await_in_the_loop,
    ),
    Mistake(
        "dropped-in-silence",
        "backpressure",
        "A slow reader misses messages and does not know it.",
        "safeSend of a tutorial on Node's ws; uWebSockets.js#1079",
        "every_loss_is_told",
        _outbox(DroppedInSilence),
    ),
    Mistake(
        "control-dropped",
        "backpressure",
        "Answers are dropped like messages, so a client waits for ever.",
        "a bufferedAmount check inside the only function that sends",
        "answers_are_never_dropped",
        _outbox(ControlDropped),
    ),
)
