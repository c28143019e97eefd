"""The rooms of one process: who is in them, and one write per member and tick.

A system call for each delivery is what limits a server (about 2.5 microseconds each);
the only lever is fewer of them. So what reaches a room during one tick of the event
loop is joined, and each member gets it in one write.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from msgspec.structs import replace

from labserver.contract import wire
from labserver.contract.closing import INTERNAL
from labserver.contract.messages import Event, Joined
from labserver.contract.wire import Variant
from labserver.server.member import SHUT, Member
from labserver.server.metrics import Metrics

log = logging.getLogger("labserver")

COMPRESSED_LIMIT = 32  # messages of one replay up to which they are compressed


class Room:
    """A room with at least one local member, or one that is about to join."""

    __slots__ = (
        "epoch",
        "joining",
        "members",
        "name",
        "pending",
        "renumbered",
        "since",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.epoch = ""  # names the numbering, from the first member on
        # By variant, so that a frame is built once for each.
        self.members: dict[Variant, set[Member]] = {}
        # What was delivered since each of them began to join.
        self.joining: dict[Member, list[Event]] = {}
        # The new numbering, for those of them who began in the old one.
        self.renumbered: dict[Member, Joined] = {}
        self.pending: list[Event] = []
        self.since = 0.0  # when the oldest of these came


class Hub:
    """All rooms of a process; with ``connection.rooms`` the two indexes.

    Args:
        metrics: Counts deliveries.
        emptied: Called with the name of a room that has lost its last member.
        stirred: Called by the broker with the name of a room that people entered or
            left on another replica.

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
    def joining(self, connection: Member, name: str) -> Iterator[Room]:
        """Keep for a connection what its room is sent, until :meth:`add` or the end.

        A member that joins again is none meanwhile: it would be sent the same twice.
        """
        room = self.rooms.get(name)
        if room is None:
            room = self.rooms[name] = Room(name)
        again = name in connection.rooms
        if again:
            self.flush(room)
            self._take_out(connection, room)
        room.joining[connection] = []
        try:
            yield room
        finally:
            live = room.joining.pop(connection, None)
            renumbered = room.renumbered.pop(connection, None)
            # In vain: it stays the member that it was, unless it has left altogether.
            if again and live is not None and name in connection.rooms:
                if renumbered is not None:
                    connection.reply(renumbered)
                self._put_in(connection, room, live)
            self._forget_if_empty(room)

    def add(
        self,
        connection: Member,
        room: Room,
        joined: Joined,
        missed: Sequence[Event],
    ) -> None:
        """Finish a join: the answer, what was missed, what came meanwhile, then live.

        ``missed`` ends at ``joined.seq``. The same message may have come meanwhile,
        too: that part is left out.
        """
        self.flush(room)  # what waits for the others is not for the newcomer
        live = room.joining.pop(connection)
        renumbered = room.renumbered.pop(connection, None)
        if renumbered is None or renumbered.recovered:
            old = [event for event in live if event.last <= joined.seq]
            live = live[len(old) :]
            if room.name in connection.rooms:  # it was to get these anyway
                self._put_in(connection, room, old)
        else:  # what was read is of an epoch that is over
            joined, missed = replace(renumbered, ref=joined.ref), ()
        connection.rooms.add(room.name)
        room.epoch = joined.epoch
        connection.reply(joined)
        self._put_in(connection, room, missed)
        if renumbered is not None and renumbered.epoch != joined.epoch:
            room.epoch = renumbered.epoch
            connection.reply(renumbered)
        self._put_in(connection, room, live)

    def remove(self, connection: Member, name: str) -> None:
        """Take a connection out of a room; nothing happens if it is not in it."""
        room = self.rooms.get(name)
        connection.rooms.discard(name)
        if room is None:
            return
        self.flush(room)  # it was a member when that was delivered
        self._take_out(connection, room)
        self._forget_if_empty(room)

    def _put_in(self, connection: Member, room: Room, events: Sequence[Event]) -> None:
        self.flush(room)
        room.members.setdefault(connection.variant, set()).add(connection)
        if events:
            # Nobody shares it, and to compress a thousand messages holds the loop for
            # 50 ms: many go as they are, which RFC 7692 section 6 leaves to each.
            variant = connection.variant
            if len(events) > COMPRESSED_LIMIT:
                variant = variant._replace(window_bits=0)
            chunk = wire.chunk(variant, room.name, events, room.epoch)
            connection.outbox.deliver(chunk)
            self.metrics.deliveries += len(events)

    def _take_out(self, connection: Member, room: Room) -> None:
        members = room.members.get(connection.variant, set())
        members.discard(connection)
        if not members:
            room.members.pop(connection.variant, None)

    def _forget_if_empty(self, room: Room) -> None:
        if not room.members and not room.joining:
            self.rooms.pop(room.name, None)
            self.emptied(room.name)

    # Delivery

    def deliver(self, name: str, event: Event) -> None:
        """Send what the broker says to a room's members, at the end of this tick.

        The broker calls in order of seq and without repeating itself.
        """
        room = self.rooms.get(name)
        if room is None:
            return
        if not room.pending:
            asyncio.get_running_loop().call_soon(self.flush, room)
            room.since = time.monotonic()
        room.pending.append(event)
        for meanwhile in room.joining.values():
            meanwhile.append(event)

    def _failed(self, member: Member) -> None:
        """End a member that cannot be written to: it comes back, and misses nothing."""
        log.exception("connection %s failed", member.name)
        member.outbox = SHUT  # nothing may follow what it has missed
        # Later: to cut it may fail as well, and the others are still waiting.
        asyncio.get_running_loop().call_soon(member.cut, INTERNAL)

    def renumber(self, name: str, epoch: str, seq: int, goes_on: bool = False) -> None:
        """Tell a room's members that its numbering has a new epoch.

        Args:
            name: Of the room.
            epoch: The new one.
            seq: Its newest message.
            goes_on: Whether what follows follows what was delivered so far. Otherwise
                the old numbering is lost, with what the members had not yet got.

        """
        room = self.rooms.get(name)
        if room is None:
            return
        self.flush(room)
        room.epoch = epoch
        joined = Joined(name, epoch, seq, recovered=goes_on)
        for members in room.members.values():
            for member in members:
                try:
                    member.reply(joined)
                except Exception:
                    self._failed(member)
        for newcomer, meanwhile in room.joining.items():
            before = room.renumbered.get(newcomer)
            if goes_on and before is not None and not before.recovered:
                room.renumbered[newcomer] = replace(before, epoch=epoch)
                continue
            if not goes_on:
                meanwhile.clear()
            room.renumbered[newcomer] = joined

    def flush(self, room: Room) -> None:
        """Write what is pending to every member of a room."""
        events, room.pending = room.pending, []
        if not events:
            return
        metrics = self.metrics
        metrics.flushes += 1
        for variant, members in room.members.items():
            shared = wire.chunk(variant, room.name, events, room.epoch)
            for member in members:
                try:  # costs nothing, and the others are owed it whatever happens here
                    member.outbox.deliver(shared)
                except Exception:
                    self._failed(member)
            metrics.deliveries += len(members) * len(events)
        metrics.flush_size.observe(len(events))
        metrics.delivery_latency.observe(time.monotonic() - room.since)
