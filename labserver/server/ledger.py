"""Counts the bytes of histories by user, and chooses which rooms to empty.

All rooms share one memory. When it runs short, the users who fill most of it lose
histories, all of them down to the same level. Users below that level lose nothing
(max-min fairness). So a user who fills the memory empties no other user's rooms.

Pure: sizes and times in, names of rooms out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

OVERHEAD = 4096  # bytes that a history costs beside its messages: a stream's first page


@dataclass(slots=True)
class Kept:
    """The bytes of a room's history, by the user who published them.

    A ledger does not see which messages a history drops, so it counts in generations. A
    generation ends when it has as many messages as a room keeps, and is forgotten when
    the next one ends. So the sum is never too low, and at most twice too high.
    """

    at: float  # time of the newest message
    count: int = 0  # messages of the new generation
    new: dict[str, int] = field(default_factory=dict)
    old: dict[str, int] = field(default_factory=dict)


class Ledger:
    """The bytes of history of each user, in each room.

    Args:
        limit: Messages that a room keeps.
        ttl: Seconds that it keeps them.

    Attributes:
        size: Bytes of all rooms.

    """

    def __init__(self, limit: int, ttl: float) -> None:
        self.limit = limit
        self.ttl = ttl
        self.size = 0
        self.rooms: OrderedDict[str, Kept] = OrderedDict()  # the quietest first
        self.users: dict[str, dict[str, int]] = {}  # bytes by user and room
        self.sums: dict[str, int] = {}  # bytes by user

    def note(self, room: str, user: str, size: int, now: float) -> None:
        """Note that a room keeps a message of ``size`` bytes."""
        kept = self.rooms.pop(room, None)
        if kept is None:
            kept = Kept(now)
            size += OVERHEAD
        self.rooms[room] = kept
        kept.at = now
        kept.count += 1
        if kept.count > self.limit:
            self._subtract(room, kept.old)
            kept.count, kept.old, kept.new = 1, kept.new, {}
        kept.new[user] = kept.new.get(user, 0) + size
        held = self.users.setdefault(user, {})
        held[room] = held.get(room, 0) + size
        self.sums[user] = self.sums.get(user, 0) + size
        self.size += size

    def forget(self, room: str) -> None:
        """Note that a room's history is empty."""
        if (kept := self.rooms.pop(room, None)) is not None:
            self._subtract(room, kept.old)
            self._subtract(room, kept.new)

    def cut(self, target: float, now: float) -> list[str]:
        """Choose rooms to empty until at most ``target`` bytes are kept; forget them.

        Of each user who holds too much, the rooms go first in which it holds the most.

        Returns:
            Names of the rooms.

        """
        while self.rooms and self._quietest().at + self.ttl < now:
            self.forget(next(iter(self.rooms)))
        cut: list[str] = []
        if self.size <= target:
            return cut
        most = level(self.sums.values(), target)
        for user in [user for user, size in self.sums.items() if size > most]:
            held = self.users.get(user, {})  # empty if its rooms went with another's
            for room in sorted(held, key=held.__getitem__, reverse=True):
                if self.sums.get(user, 0) <= most:
                    break
                cut.append(room)
                self.forget(room)
        return cut

    def _quietest(self) -> Kept:
        return next(iter(self.rooms.values()))

    def _subtract(self, room: str, sizes: dict[str, int]) -> None:
        for user, size in sizes.items():
            self.size -= size
            self.sums[user] -= size
            held = self.users[user]
            held[room] -= size
            if not held[room]:
                del held[room]
            if not held:
                del self.users[user], self.sums[user]


def level(sizes: Iterable[int], target: float) -> float:
    """Return the bytes that each user may hold so that all hold ``target``."""
    ascending = sorted(sizes)
    for number, size in enumerate(ascending):
        others = len(ascending) - number
        if size * others > target:
            return target / others
        target -= size
    return float(ascending[-1]) if ascending else 0.0
