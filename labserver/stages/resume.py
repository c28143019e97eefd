"""A client that comes back misses nothing, or is told what it missed.

Without this, a client misses messages whenever its connection is lost, and neither side
can say how many.

How: each room keeps its newest messages, bounded by count and by age. A client names
the newest message that it has, by epoch and seq. Either it gets every message after
that one, in order and before any live message, or it hears that it cannot have them
(``recovered`` is false). There is nothing in between: half a replay looks like a whole
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from labserver.contract.messages import Cursor, Event
from labserver.server.parts import Parts, Position
from labserver.settings import Settings


@dataclass(frozen=True, slots=True)
class RecentHistory:
    """Decides whether a client can get the messages that it missed.

    Args:
        limit: Messages that a room keeps.
        ttl: Seconds that a room keeps each message.
        replay_limit: Bytes of one replay; 0 for no limit. A replay that is larger than
            the client's outbox would end the connection, each time it is asked for.

    """

    limit: int
    ttl: float
    replay_limit: int

    def missed(
        self, cursor: Cursor | None, position: Position
    ) -> Sequence[Event] | None:
        if cursor is None or not position.continues(cursor.epoch, cursor.seq):
            return None  # a seq of another epoch means nothing in this one
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
