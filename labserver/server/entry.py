"""A join that is not finished: keeps new messages, so that each is sent once, in order.

A room is subscribed first and read second. Messages published between the two are in
both, and the room may begin a new epoch in that time. An entry notes all that, so that
its member gets every message once. It does no I/O: the hub writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from labserver.contract.messages import Event, Joined
from labserver.server.member import Member


class Step(NamedTuple):
    """Something to send to a member, all of it of one epoch."""

    epoch: str
    answer: Joined | None  # sent before the events
    events: Sequence[Event] = ()


@dataclass(eq=False, slots=True)
class Entry:
    """One member that joins one room.

    Args:
        member: The client that joins.
        room: Name of the room.
        epoch: The room's epoch when the join began; empty if it is not known yet.
        again: Whether it is a member already. It gets nothing until the join ends, or
            it would get messages twice.

    Attributes:
        live: The messages delivered since the join began.
        renumbered: The newest epoch, if one has begun since then.

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
        """Note a new epoch; ``recovered`` if it continues the last one."""
        before = self.renumbered
        if not joined.recovered:
            self.live.clear()
        elif before is not None and not before.recovered:
            joined = replace(before, epoch=joined.epoch)  # the loss is still to be told
        self.renumbered = joined

    def entered(self, answer: Joined, missed: Sequence[Event]) -> list[Step]:
        """Return everything that the member is sent before live messages, in order.

        Args:
            answer: The answer to the join, with the epoch and seq that were read.
            missed: The messages to replay; after them the live ones follow.

        """
        now = self.renumbered
        # Unless it was read after the loss: then the answer says what the client lacks.
        # It may have been in the new epoch before, on a replica that noticed it first.
        newer = not self.again and now is not None and now.epoch == answer.epoch
        if now is not None and not now.recovered and not newer:
            return [Step(now.epoch, replace(now, ref=answer.ref), self.live)]
        reached = missed[-1].last if missed else answer.seq
        read = [event for event in self.live if event.last <= reached]
        steps = [Step(answer.epoch, answer, missed)]
        if self.again:  # as a member it gets these, whatever it wants replayed
            steps.insert(0, Step(self.epoch, None, read))
        if now is not None and now.epoch != answer.epoch:
            steps.append(Step(now.epoch, now))
        return [*steps, Step(steps[-1].epoch, None, self.live[len(read) :])]

    def given_up(self) -> list[Step]:
        """Return what to send to a member whose second join failed. It stays one."""
        now = self.renumbered
        return [Step(now.epoch if now else self.epoch, now, self.live)]
