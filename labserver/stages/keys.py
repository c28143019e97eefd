"""The idempotency keys that a process remembers, with a limit that is fair to users.

When there are too many, the users with the most keys lose their oldest, all of them
down to the same number. Users below that number lose none (as in
:mod:`labserver.server.ledger`). So a flood of keys pushes out keys of its own user.

Pure: times in, seqs out.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from labserver.server.ledger import level


@dataclass(slots=True)
class Known:
    """The first message with a key.

    Attributes:
        expires: Time at which the key is forgotten.
        epoch: Epoch of the seq.
        seq: Seq of the message.

    """

    expires: float
    epoch: str
    seq: int


class Keys:
    """The keys of all users in all rooms.

    Args:
        limit: Keys remembered, of all users together.
        ttl: Seconds that a key is remembered.

    """

    def __init__(self, limit: int, ttl: float) -> None:
        self.limit = limit
        self.ttl = ttl
        self.count = 0
        # By user, then by room and key; the oldest first.
        self.users: dict[str, OrderedDict[tuple[str, str], Known]] = {}

    def seq(self, user: str, room: str, key: str, epoch: str, now: float) -> int | None:
        """Return the seq of a user's message with this key; None if the key is new."""
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
        """Forget an eighth of all keys: this goes through all users, so it is rare."""
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
