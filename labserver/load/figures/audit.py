"""Completeness: what each subscriber should have got, and what it got.

A percentile of what arrived says nothing about what did not: the fastest way to a fine
p99 is to lose the slow messages. The judge is
:class:`labserver.judge.oracle.Oracle`. As long as a subscriber gets one seq after the
other, the oracle would know nothing that two integers do not say, so a crowd keeps two
integers each; at the first message out of line the oracle is called, told what there
was, and sees everything from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from labserver.judge.oracle import Oracle


@dataclass
class Tally:
    """How many messages; sums over subscribers and processes.

    ``told`` were announced as gaps, ``unread`` came after the last message of a reader
    that is slow by design, ``lost`` have no excuse; ``expected`` is the sum of these
    three and ``delivered``. ``duplicated`` and ``reordered`` come on top.
    """

    expected: int = 0
    delivered: int = 0
    lost: int = 0
    told: int = 0
    unread: int = 0
    duplicated: int = 0
    reordered: int = 0

    def __iadd__(self, other: Tally) -> Tally:
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            setattr(self, each.name, mine + theirs)
        return self

    @property
    def faults(self) -> int:
        """What a server must never do, to anybody."""
        return self.lost + self.duplicated + self.reordered

    def missed_tail(self, count: int, by_design: bool = False) -> None:
        """Add messages after the last one seen, which nothing betrayed."""
        self.expected += count
        if by_design:
            self.unread += count
        else:
            self.lost += count

    def as_json(self) -> dict[str, int]:
        return asdict(self)


class Audit:
    """Holds one subscriber's view of one room against the contract."""

    def __init__(self, room: str) -> None:
        self.room = room
        self.epoch: str | None = None  # None until the first ``joined``
        self.first = 0
        self.next = 0
        self.oracle: Oracle | None = None

    def message(self, seq: int) -> None:
        """Take note of a message. This is the hot path."""
        if self.oracle is None and seq == self.next:
            self.next = seq + 1
        else:
            self._tell({"type": "message", "room": self.room, "seq": seq})

    def joined(self, message: Mapping[str, Any]) -> None:
        """Take note of a ``joined`` answer."""
        if self.epoch is None:
            self.epoch = message["epoch"]
            self.first = self.next = message["seq"] + 1
            return
        goes_on = message["recovered"] or message["seq"] + 1 == self.next
        if self.oracle is None and message["epoch"] == self.epoch and goes_on:
            return
        self._tell(message)

    def gap(self, message: Mapping[str, Any]) -> None:
        """Take note of an announced gap."""
        self._tell(message)

    def cursor(self) -> dict[str, Any] | None:
        """Return what to name as ``after`` when joining again."""
        if self.oracle is not None:
            return self.oracle.cursor(self.room)
        if self.epoch is None:
            return None
        return {"epoch": self.epoch, "seq": self.next - 1}

    def last(self) -> int:
        """Return the newest seq that this subscriber has or was told of."""
        cursor = self.cursor()
        return cursor["seq"] if cursor else 0

    def tally(self) -> Tally:
        """Return the figures up to :meth:`last`; the tail is for whoever knows it."""
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
