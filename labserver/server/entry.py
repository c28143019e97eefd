"""A join on its way: what came meanwhile is kept, and sent once, in order.

A room is subscribed to first and read second. What is published between the two is in
both, and the room may begin a new numbering meanwhile. An entry takes note of all that,
so that its member gets every message once. It does no I/O: the hub writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from labserver.contract.messages import Event, Joined
from labserver.server.member import Member


class Step(NamedTuple):
    """What a member is sent, all of it of one numbering."""

    epoch: str
    answer: Joined | None  # goes first
    events: Sequence[Event] = ()


@dataclass(eq=False, slots=True)
class Entry:
    """One member that joins one room.

    Args:
        member: The client that joins.
        room: Name of the room.
        epoch: The room's numbering at the beginning; empty where it is not known yet.
        again: Whether it is a member already. It gets nothing until the join ends, or
            it would get messages twice.

    Attributes:
        live: What was delivered meanwhile.
        renumbered: The newest numbering, if it began meanwhile.

    """

    member: Member
    room: str
    epoch: str = ""
    again: bool = False
    live: list[Event] = field(default_factory=list)
    renumbered: Joined | None = None

    def deliver(self, event: Event) -> None:
        """Keep a message until the join ends."""
        self.live.append(event)

    def renumber(self, joined: Joined) -> None:
        """Take note of a new numbering; ``recovered`` if it goes on from the last."""
        before = self.renumbered
        if not joined.recovered:
            self.live.clear()
        elif before is not None and not before.recovered:
            joined = replace(before, epoch=joined.epoch)  # the loss stays untold
        self.renumbered = joined

    def entered(self, answer: Joined, missed: Sequence[Event]) -> list[Step]:
        """Return what the member is sent, in order, until it is live.

        Args:
            answer: What was read: the numbering, and its newest message.
            missed: The messages to replay, up to ``answer.seq``.

        """
        now = self.renumbered
        if now is not None and not now.recovered:  # what was read is of a lost one
            return [Step(now.epoch, replace(now, ref=answer.ref), self.live)]
        read = [event for event in self.live if event.last <= answer.seq]
        steps = [Step(answer.epoch, answer, missed)]
        if self.again:  # it is owed these, whatever it asks to be sent again
            steps.insert(0, Step(self.epoch, None, read))
        if now is not None and now.epoch != answer.epoch:
            steps.append(Step(now.epoch, now))
        return [*steps, Step(steps[-1].epoch, None, self.live[len(read) :])]

    def given_up(self) -> list[Step]:
        """Return what a member gets whose join came to nothing: it stays one."""
        now = self.renumbered
        return [Step(now.epoch if now else self.epoch, now, self.live)]
