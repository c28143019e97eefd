"""The rooms of one process: their members, and one write per member and tick.

System calls limit a server: each delivery takes one, of about 2.5 microseconds. The
only lever is fewer of them. So the messages that reach a room during one tick of the
event loop are joined, and each member gets them in one write.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from labserver.contract import wire
from labserver.contract.closing import INTERNAL
from labserver.contract.messages import Event, Joined
from labserver.contract.wire import Variant
from labserver.server.entry import Entry, Step
from labserver.server.member import SHUT, Member
from labserver.server.metrics import Metrics

log = logging.getLogger("labserver")

COMPRESSED_LIMIT = 32  # messages of one replay up to which they are compressed


class Room:
    """A room with at least one local member, or one that is joining."""

    __slots__ = ("entries", "epoch", "members", "name", "pending", "since")

    def __init__(self, name: str) -> None:
        self.name = name
        self.epoch = ""  # the room's epoch, from the first member on
        # By variant, so that a frame is built once for each.
        self.members: dict[Variant, set[Member]] = {}
        self.entries: set[Entry] = set()  # joins that are not finished
        self.pending: list[Event] = []
        self.since = 0.0  # when the oldest pending event came


class Hub:
    """All rooms of a process. Each member has the other index, its ``rooms``.

    Args:
        metrics: Counts deliveries.
        emptied: Called with the name of a room that has lost its last member.
        stirred: Called by the broker with the name of a room, when people entered or
            left it on another replica.

    """

    def __init__(
        self,
        metrics: Metrics,
        emptied: Callable[[str], None],
        stirred: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.rooms: dict[str, Room] = {}
        self.metrics = metrics
        self.emptied = emptied
        self.stirred = stirred

    # Membership

    @contextmanager
    def joining(self, member: Member, name: str) -> Iterator[Entry]:
        """Keep the room's messages for a member, until :meth:`add` or the end."""
        room = self.rooms.get(name)
        if room is None:
            room = self.rooms[name] = Room(name)
        entry = Entry(member, name, room.epoch, again=name in member.rooms)
        if entry.again:
            self.flush(room)
            self._take_out(member, room)
        room.entries.add(entry)
        try:
            yield entry
        finally:
            in_vain = entry in room.entries
            room.entries.discard(entry)
            if in_vain and name in member.rooms:  # it stays the member that it was
                self._put_in(member, room, entry.given_up())
            self._forget_if_empty(room)

    def add(self, entry: Entry, answer: Joined, missed: Sequence[Event]) -> None:
        """Finish a join: the answer, missed messages, new messages, then live ones.

        Args:
            entry: The entry from :meth:`joining`, with the new messages.
            answer: The answer to the join, with the room's position.
            missed: Messages to replay, up to ``answer.seq``.

        """
        room = self.rooms[entry.room]
        room.entries.remove(entry)
        entry.member.rooms.add(entry.room)
        steps = entry.entered(answer, missed)
        self._put_in(entry.member, room, steps)
        room.epoch = steps[-1].epoch

    def remove(self, member: Member, name: str) -> None:
        """Remove a member from a room; do nothing if it is not in it."""
        room = self.rooms.get(name)
        member.rooms.discard(name)
        if room is None:
            return
        self.flush(room)  # it was a member when these were delivered
        self._take_out(member, room)
        self._forget_if_empty(room)

    def _put_in(self, member: Member, room: Room, steps: Sequence[Step]) -> None:
        self.flush(room)  # pending messages are not for the new member
        room.members.setdefault(member.variant, set()).add(member)
        for epoch, answer, events in steps:
            if answer is not None:
                member.reply(answer)
            if events:
                self._replay(member, room.name, events, epoch)

    def _replay(
        self, member: Member, room: str, events: Sequence[Event], epoch: str
    ) -> None:
        variant = member.variant
        if len(events) > COMPRESSED_LIMIT:
            # To compress a thousand messages for one member holds the loop for 50 ms.
            # RFC 7692 section 6 leaves it to the sender, message by message.
            variant = variant._replace(window_bits=0)
        member.outbox.deliver(wire.chunk(variant, room, events, epoch))
        self.metrics.deliveries += len(events)

    def _take_out(self, member: Member, room: Room) -> None:
        members = room.members.get(member.variant, set())
        members.discard(member)
        if not members:
            room.members.pop(member.variant, None)

    def _forget_if_empty(self, room: Room) -> None:
        if not room.members and not room.entries:
            self.rooms.pop(room.name, None)
            self.emptied(room.name)

    # Delivery

    def deliver(self, name: str, event: Event) -> None:
        """Send an event to a room's members, at the end of this tick.

        The broker calls this once an event, in order of seq.
        """
        room = self.rooms.get(name)
        if room is None:
            return
        if not room.pending:
            asyncio.get_running_loop().call_soon(self.flush, room)
            room.since = time.monotonic()
        room.pending.append(event)
        for entry in room.entries:
            entry.deliver(event)

    def renumber(self, name: str, epoch: str, seq: int, goes_on: bool = False) -> None:
        """Tell a room's members that its numbering has a new epoch.

        Args:
            name: Name of the room.
            epoch: The new epoch.
            seq: Its newest message.
            goes_on: Whether its next message is the one after the last delivered.
                Otherwise messages that no member got are lost.

        """
        room = self.rooms.get(name)
        if room is None:
            return
        self.flush(room)
        room.epoch = epoch
        self.metrics.epochs += not goes_on
        joined = Joined(name, epoch, seq, recovered=goes_on)
        for members in room.members.values():
            for member in members:
                try:
                    member.reply(joined)
                except Exception:
                    self._failed(member)
        for entry in room.entries:
            entry.renumber(joined)

    def flush(self, room: Room) -> None:
        """Write the pending messages to every member of a room."""
        events, room.pending = room.pending, []
        if not events:
            return
        metrics = self.metrics
        metrics.flushes += 1
        for variant, members in room.members.items():
            shared = wire.chunk(variant, room.name, events, room.epoch)
            for member in members:
                try:  # costs nothing; a member that fails must not harm the others
                    member.outbox.deliver(shared)
                except Exception:
                    self._failed(member)
            metrics.deliveries += len(members) * len(events)
        metrics.flush_size.observe(len(events))
        metrics.delivery_latency.observe(time.monotonic() - room.since)

    def _failed(self, member: Member) -> None:
        """End a member that cannot be written to; it can come back and resume."""
        log.exception("connection %s failed", member.name)
        member.outbox = SHUT  # nothing may follow the message that it missed
        # Later: the cut may fail as well, and the other members still wait.
        asyncio.get_running_loop().call_soon(member.cut, INTERNAL)
