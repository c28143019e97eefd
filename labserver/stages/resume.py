"""A client that comes back misses nothing, or is told what it missed.

Without this, every lost connection is a hole in what a client knows, and neither side
can say how large.

How: each room remembers its newest messages, bounded by count and by age. A client
names the newest message that it has, by epoch and seq, and either gets every message
after it, in order and before anything live, or hears that it cannot (``recovered`` is
false). There is nothing in between: half a replay looks like a whole one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from labserver.contract.messages import Cursor, Event
from labserver.server.parts import Parts, Position
from labserver.settings import Settings


@dataclass(frozen=True, slots=True)
class RecentHistory:
    """Remember the newest messages of a room.

    Args:
        limit: Messages that a room keeps.
        ttl: Seconds that it keeps each.
        replay_limit: Bytes of one replay; 0 for any. What does not fit a client's
            outbox would end the connection that asks for it, again and again.

    """

    limit: int
    ttl: float
    replay_limit: int

    def missed(
        self, cursor: Cursor | None, position: Position
    ) -> Sequence[Event] | None:
        if cursor is None or not position.continues(cursor.epoch, cursor.seq):
            return None  # a number of another epoch means nothing in this one
        wanted = position.seq - cursor.seq
        if wanted < 0 or len(position.kept) < wanted:
            return None
        missed = position.kept[len(position.kept) - wanted :]
        size = sum(len(event.json) for event in missed)
        return None if self.replay_limit and size > self.replay_limit else missed


def extend(parts: Parts, settings: Settings) -> Parts:
    """Replace the history."""
    history = RecentHistory(
        settings.history_limit, settings.history_ttl, settings.outbox_limit
    )
    return replace(parts, history=history)
