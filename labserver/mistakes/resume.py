"""Mistakes of stage resume: a replay that is wrong, partial, or has a hole."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from labserver.contract import wire
from labserver.contract.messages import Cursor, Event, Join, Joined
from labserver.mistakes.mistake import Extend, Mistake
from labserver.server.member import Member
from labserver.server.parts import Broker, History, Parts, Position
from labserver.settings import Settings
from labserver.stages.resume import RecentHistory
from labserver.stages.rooms import RoomsApplication


class NoEpoch(RecentHistory):
    """Compare sequence numbers, but not their epochs."""

    def missed(
        self, cursor: Cursor | None, position: Position
    ) -> Sequence[Event] | None:
        if cursor is not None:
            cursor = Cursor(position.epoch, cursor.seq)
        return super().missed(cursor, position)


class PartialReplay(RecentHistory):
    """Replay the messages that are left, even if some are missing."""

    def missed(
        self, cursor: Cursor | None, position: Position
    ) -> Sequence[Event] | None:
        if cursor is None or cursor.epoch != position.epoch:
            return None
        return [event for event in position.kept if event.first > cursor.seq]


class EpochAlone(RecentHistory):
    """Accept cursors of the newest epoch only, even if it continues another one."""

    def missed(
        self, cursor: Cursor | None, position: Position
    ) -> Sequence[Event] | None:
        return super().missed(cursor, replace(position, before=("", -1)))


class NothingIsNone(RecentHistory):
    """Take an empty replay for none."""

    def missed(
        self, cursor: Cursor | None, position: Position
    ) -> Sequence[Event] | None:
        return super().missed(cursor, position) or None


class SharedReplay(RecentHistory):
    """Replay all that was read, also if it was read for several clients."""

    def missed(
        self, cursor: Cursor | None, position: Position
    ) -> Sequence[Event] | None:
        missed = super().missed(cursor, position)
        return None if missed is None else position.kept


class EndlessReplay(RecentHistory):
    """Replay any number of bytes."""

    def __init__(self, limit: int, ttl: float, replay_limit: int) -> None:
        super().__init__(limit, ttl, 0)


class ReplayThenSubscribe(RoomsApplication):
    """Read the missed messages first, then subscribe."""

    async def join(self, member: Member, message: Join) -> None:
        lab, name = self.lab, message.room
        self.check_claim(member, name, message.ref)
        after = None if message.after is None else message.after.seq
        position = await lab.broker.read(name, after)
        missed = lab.history.missed(message.after, position)
        await lab.broker.subscribe(name)
        await lab.broker.read(name, None)  # live messages only start here
        with lab.hub.joining(member, name) as entry:
            joined = Joined(
                name, position.epoch, position.seq, missed is not None, message.ref
            )
            lab.hub.add(entry, joined, missed or ())


class LiveOvertakesReplay(RoomsApplication):
    """Join first, and send the missed messages afterwards."""

    async def join(self, member: Member, message: Join) -> None:
        lab, name = self.lab, message.room
        self.check_claim(member, name, message.ref)
        after = None if message.after is None else message.after.seq
        with lab.hub.joining(member, name) as entry:
            await lab.broker.subscribe(name)
            position = await lab.broker.read(name, after)
            missed = lab.history.missed(message.after, position)
            joined = Joined(
                name, position.epoch, position.seq, missed is not None, message.ref
            )
            lab.hub.add(entry, joined, ())
        for event in missed or ():
            member.outbox.deliver(wire.chunk(member.variant, name, [event]))


class Ageless(RecentHistory):
    """Limit the history by the number of messages only."""

    def __init__(self, limit: int, ttl: float, replay_limit: int) -> None:
        super().__init__(limit, 86400.0, replay_limit)


class OneRing:
    """Keep the newest messages of all rooms in one ring, of one room's size."""

    def __init__(self, broker: Broker, limit: int) -> None:
        self.broker = broker
        self.ring: deque[tuple[str, int]] = deque(maxlen=limit)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.broker, name)

    def publish(self, room: str, tail: bytes, *about: Any) -> asyncio.Future[int]:
        stored = self.broker.publish(room, tail, *about)
        stored.add_done_callback(partial(self.keep, room))
        return stored

    def keep(self, room: str, stored: asyncio.Future[int]) -> None:
        if stored.exception() is None:
            self.ring.append((room, stored.result()))

    async def read(self, room: str, after: int | None) -> Position:
        position = await self.broker.read(room, after)
        kept = [event for event in position.kept if (room, event.first) in self.ring]
        return replace(position, kept=kept)


def replay_then_subscribe(parts: Parts, settings: Settings) -> Parts:
    limit = settings.rooms_limit
    return replace(parts, application=lambda lab: ReplayThenSubscribe(lab, limit))


def live_overtakes_replay(parts: Parts, settings: Settings) -> Parts:
    limit = settings.rooms_limit
    return replace(parts, application=lambda lab: LiveOvertakesReplay(lab, limit))


def one_ring(parts: Parts, settings: Settings) -> Parts:
    ring = OneRing(parts.broker, settings.history_limit)
    return replace(parts, broker=cast(Broker, ring))


def _history(made: Callable[[int, float, int], History]) -> Extend:
    def extend(parts: Parts, settings: Settings) -> Parts:
        history = made(
            settings.history_limit, settings.history_ttl, settings.outbox_limit
        )
        return replace(parts, history=history)

    return extend


MISTAKES = (
    Mistake(
        "no-epoch",
        "resume",
        "When a new numbering has begun, a cursor of the old one is accepted, and "
        "the client gets the wrong messages or none.",
        "replay by id alone (Last-Event-ID); Centrifugo compares epoch and offset",
        "cursor_that_means_nothing_is_refused",
        _history(NoEpoch),
    ),
    Mistake(
        "partial-replay",
        "resume",
        "A partial replay looks like a complete one.",
        "Socket.IO: the replay may be partial",
        "cursor_that_is_too_old_is_refused",
        _history(PartialReplay),
    ),
    Mistake(
        "epoch-alone",
        "resume",
        "After a failover of Redis every client loads its whole state again, though "
        "the new numbering continues the old one.",
        "an epoch that is only compared",
        "numbering_that_goes_on_recovers",
        _history(EpochAlone),
    ),
    Mistake(
        "nothing-is-none",
        "resume",
        "A client that missed nothing is told that it missed something, and loads its "
        "whole state again.",
        "an empty list taken for false",
        "who_missed_nothing_is_told_so",
        _history(NothingIsNone),
    ),
    Mistake(
        "shared-replay",
        "resume",
        "Clients that come back together get messages again that they already have.",
        "one answer for all requests that wait, without a look at each",
        "who_returns_together_gets_its_own",
        _history(SharedReplay),
    ),
    Mistake(
        "endless-replay",
        "resume",
        "The replay fills the client's outbox, so the server ends the client as too "
        "slow, each time that it comes back.",
        "a history that is limited by count, with messages of any size",
        "replay_is_not_larger_than_an_outbox",
        _history(EndlessReplay),
    ),
    Mistake(
        "replay-then-subscribe",
        "resume",
        "Messages between the replay and the subscription are lost.",
        "tutorials that read the history in the handler of join",
        "nothing_falls_between_replay_and_live",
        replay_then_subscribe,
    ),
    Mistake(
        "live-overtakes-replay",
        "resume",
        "New messages come before old ones: a client that keeps the latest one keeps "
        "the wrong one.",
        "replay in a task of its own, after the join",
        "nothing_falls_between_replay_and_live",
        live_overtakes_replay,
    ),
    Mistake(
        "ageless",
        "resume",
        "Messages of last week are replayed to a client with an old cursor.",
        "a ring that is limited by count only",
        "history_is_forgotten_with_age",
        _history(Ageless),
    ),
    Mistake(
        "one-ring",
        "resume",
        "A busy room pushes the messages of quiet rooms out of the history.",
        "Socket.IO: one replay ring for a whole namespace",
        "room_remembers_its_own_messages",
        one_ring,
    ),
)
