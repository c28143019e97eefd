"""Idempotency keys that a process remembers: bounded, and one user's by no other's.

When they are too many, the users who hold the most give way, all of them down to the
same number, and nobody below it loses any (as in :mod:`labserver.server.ledger`). A
flood of keys pushes out keys of whoever floods.

Pure: times in, seqs out.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from labserver.server.ledger import level


@dataclass(slots=True)
class Known:
    """What the first message with a key became.

    Attributes:
        expires: When the key is forgotten.
        epoch: The numbering that the seq is of.
        seq: Of the message.

    """

    expires: float
    epoch: str
    seq: int


class Keys:
    """The keys of all users in all rooms.

    Args:
        limit: How many there may be.
        ttl: Seconds that each is remembered.

    """

    def __init__(self, limit: int, ttl: float) -> None:
        self.limit = limit
        self.ttl = ttl
        self.count = 0
        # By user, then by room and key, the oldest first.
        self.users: dict[str, OrderedDict[tuple[str, str], Known]] = {}

    def seq(self, user: str, room: str, key: str, epoch: str, now: float) -> int | None:
        """Return the seq of a user's message with this key, or None if it is new."""
        held = self.users.get(user)
        known = held.get((room, key)) if held else None
        if known is None or known.expires <= now or known.epoch != epoch:
            return None
        return known.seq

    def note(
        self, user: str, room: str, key: str, epoch: str, seq: int, now: float
    ) -> None:
        """Remember the seq of a user's message with this key."""
        held = self.users.setdefault(user, OrderedDict())
        self.count -= held.pop((room, key), None) is not None
        held[room, key] = Known(now + self.ttl, epoch, seq)
        self.count += 1
        self._expire(user, now)
        if self.count > self.limit:
            self._relieve(now)

    def _relieve(self, now: float) -> None:
        """Forget an eighth: this costs a look at every user, and so comes seldom."""
        for user in list(self.users):
            self._expire(user, now)
        most = level([len(held) for held in self.users.values()], self.limit * 7 / 8)
        for user, held in list(self.users.items()):
            while len(held) > most:
                self._forget_oldest(user, held)

    def _expire(self, user: str, now: float) -> None:
        held = self.users[user]
        while held and next(iter(held.values())).expires <= now:
            self._forget_oldest(user, held)

    def _forget_oldest(
        self, user: str, held: OrderedDict[tuple[str, str], Known]
    ) -> None:
        held.popitem(last=False)
        self.count -= 1
        if not held:
            del self.users[user]
