"""Completeness: messages that each subscriber should have got, and those it got.

Percentiles only count messages that arrived, so a server that loses its slow messages
has a good p99. :class:`labserver.judge.oracle.Oracle` judges that. As long as a
subscriber gets one seq after the other, two integers say all that an oracle would know,
and thousands of subscribers need little memory. At the first message out of order, an
oracle is created, gets the messages so far, and sees all messages from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from labserver.judge.oracle import Oracle


@dataclass
class Tally:
    """Numbers of messages, summed over subscribers and processes.

    ``told`` were announced as gaps, ``unread`` came after the last message of a reader
    that is slow by design, ``unpublished`` were due while the server was dead or did
    not read, and ``lost`` are all others that are missing. ``expected`` is the sum of
    these four and ``delivered``. ``duplicated`` and ``reordered`` are not part of it.
    """

    expected: int = 0
    delivered: int = 0
    lost: int = 0
    told: int = 0
    unread: int = 0
    duplicated: int = 0
    reordered: int = 0
    unpublished: int = 0

    def __iadd__(self, other: Tally) -> Tally:
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            setattr(self, each.name, mine + theirs)
        return self

    @property
    def faults(self) -> int:
        """Messages lost, duplicated or reordered, which a server must never do."""
        return self.lost + self.duplicated + self.reordered

    def missed_tail(self, count: int, by_design: bool = False) -> None:
        """Add missing messages after the last one seen; no later seq shows them."""
        self.expected += count
        if by_design:
            self.unread += count
        else:
            self.lost += count

    def as_json(self) -> dict[str, int]:
        return asdict(self)


class Audit:
    """Checks one subscriber's messages of one room against the contract."""

    def __init__(self, room: str) -> None:
        self.room = room
        self.epoch: str | None = None  # None until the first ``joined``
        self.first = 0
        self.next = 0
        self.oracle: Oracle | None = None

    def message(self, seq: int) -> None:
        """Record a message. This is the hot path."""
        if self.oracle is None and seq == self.next:
            self.next = seq + 1
        else:
            self._tell({"type": "message", "room": self.room, "seq": seq})

    def joined(self, message: Mapping[str, Any]) -> None:
        """Record a ``joined`` answer."""
        if self.epoch is None:
            self.epoch = message["epoch"]
            self.first = self.next = message["seq"] + 1
            return
        goes_on = message["recovered"] or message["seq"] + 1 == self.next
        if self.oracle is None and message["epoch"] == self.epoch and goes_on:
            return
        self._tell(message)

    def gap(self, message: Mapping[str, Any]) -> None:
        """Record an announced gap."""
        self._tell(message)

    def cursor(self) -> dict[str, Any] | None:
        """Return the cursor for ``after`` when joining again; None before a join."""
        if self.oracle is not None:
            return self.oracle.cursor(self.room)
        if self.epoch is None:
            return None
        return {"epoch": self.epoch, "seq": self.next - 1}

    def last(self) -> int:
        """Return the newest seq that was delivered, or announced in a gap."""
        cursor = self.cursor()
        return cursor["seq"] if cursor else 0

    def tally(self) -> Tally:
        """Return the figures up to :meth:`last`; the record adds the missing tail."""
        if self.oracle is None:
            count = self.next - self.first
            return Tally(expected=count, delivered=count)
        verdict = self.oracle.verdict
        tally = Tally(
            delivered=verdict.received - len(verdict.duplicated),
            lost=len(verdict.unsignalled),
            told=len(set(verdict.gaps) - self.oracle.payloads().keys()),
            duplicated=len(verdict.duplicated),
            reordered=len(verdict.reordered),
        )
        tally.expected = tally.delivered + tally.lost + tally.told
        return tally

    def _tell(self, message: Mapping[str, Any]) -> None:
        if self.epoch is None and message["type"] == "message":
            self.epoch = ""  # of a server that does not say where a room stands
            self.first, self.next = message["seq"], message["seq"] + 1
            return
        if self.oracle is None:
            self.oracle = Oracle()
            if self.epoch is not None:
                self.oracle.saw(
                    {
                        "type": "joined",
                        "room": self.room,
                        "epoch": self.epoch,
                        "seq": self.first - 1,
                        "recovered": False,
                    }
                )
            for seq in range(self.first, self.next):
                self.oracle.saw({"type": "message", "room": self.room, "seq": seq})
        if message["type"] == "joined":
            self.epoch = message["epoch"]
        self.oracle.saw(message)
