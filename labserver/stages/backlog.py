"""The queue of a slow reader: what waits for it, and what it lost, in order.

Pure: bytes in, bytes out. The outbox of the stage ``backpressure`` decides when to
hold, when to write and which policy to follow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from labserver.contract import messages, wire
from labserver.contract.wire import Chunk, Variant

LOSS_SIZE = 64  # bytes that a gap notice is counted as


@dataclass(slots=True)
class Loss:
    """The messages ``first`` to ``last`` of ``room``, which the reader will not get."""

    room: str
    first: int
    last: int
    epoch: str = ""


class Backlog:
    """A queue of answers, chunks and losses; a loss takes the place of its chunk.

    Attributes:
        size: Bytes held.
        kept: How many of these bytes are answers and notices, which are never lost.
        lost: Number of messages lost so far.

    """

    __slots__ = ("entries", "kept", "losses", "lost", "size")

    def __init__(self) -> None:
        self.entries: deque[bytes | Chunk | Loss] = deque()
        # By room: the last loss, if the next loss of the room may extend it. It may not
        # after an answer, or after a chunk of the room: the order would be wrong.
        self.losses: dict[str, Loss] = {}
        self.size = 0
        self.kept = 0
        self.lost = 0

    def hold(self, entry: bytes | Chunk) -> None:
        """Append an answer or a chunk."""
        if isinstance(entry, Chunk):
            self.losses.pop(entry.room, None)
            self.size += len(entry.data)
        else:
            self.losses.clear()
            self.size += len(entry)
            self.kept += len(entry)
        self.entries.append(entry)

    def lose(self, chunk: Chunk) -> None:
        """Count a chunk as lost, and append the loss."""
        self.lost += len(chunk)
        self._note(Loss(chunk.room, chunk.first, chunk.last, chunk.epoch))

    def lose_where(self, chosen: Callable[[Chunk], bool]) -> None:
        """Replace the chosen chunks by losses, in their places."""
        entries, self.entries, self.losses = self.entries, deque(), {}
        self.size = self.kept = 0
        for entry in entries:
            if isinstance(entry, Loss):
                self._note(entry)
            elif isinstance(entry, Chunk) and chosen(entry):
                self.lose(entry)
            else:
                self.hold(entry)

    def chunks(self) -> Iterator[Chunk]:
        """Yield the chunks that wait, the oldest first."""
        return (entry for entry in self.entries if isinstance(entry, Chunk))

    def oldest(self, size: float) -> set[Chunk]:
        """Return the oldest chunks, ``size`` bytes of them or a little more."""
        found: set[Chunk] = set()
        for chunk in self.chunks():
            if size <= 0:
                break
            size -= len(chunk.data)
            found.add(chunk)
        return found

    def _note(self, loss: Loss) -> None:
        before = self.losses.get(loss.room)
        if before is not None and before.last + 1 == loss.first:
            before.last = loss.last
        else:
            self.losses[loss.room] = loss
            self.entries.append(loss)
            self.size += LOSS_SIZE
            self.kept += LOSS_SIZE

    def squeeze(self, policy: str, chunk: Chunk, limit: float) -> None:
        """Make a full backlog lose messages by a policy, so that it keeps its limit.

        Args:
            policy: ``drop-newest``, ``drop-oldest`` or ``conflate``.
            chunk: The newest chunk, which does not fit.
            limit: Bytes that may be held.

        """
        if policy == "drop-oldest":
            # A quarter of the limit at a time: going through all entries stays rare.
            oldest = self.oldest(self.size + len(chunk.data) - limit * 3 / 4)
            self.lose_where(lambda old: old in oldest)
        elif policy == "conflate":
            newest = {each.room: each for each in (*self.chunks(), chunk)}
            self.lose_where(lambda old: old is not newest[old.room])
            *older, chunk = chunk.singles()
            for single in older:
                self.lose(single)
        if self.size + len(chunk.data) <= limit:
            self.hold(chunk)
        else:
            self.lose(chunk)

    def take(self, variant: Variant, most: int) -> bytes:
        """Remove the next entries; return them as frames, about ``most`` bytes."""
        parts: list[bytes] = []
        length = 0
        while self.entries and length < most:
            entry = self.entries.popleft()
            if isinstance(entry, Loss):
                self.losses.pop(entry.room, None)
                notice = messages.gap(entry.room, entry.first, entry.last, "slow")
                part = wire.chunk(variant, entry.room, [notice], entry.epoch).data
                self.size -= LOSS_SIZE
                self.kept -= LOSS_SIZE
            else:
                if isinstance(entry, Chunk):
                    part = entry.data
                else:
                    part = entry
                    self.kept -= len(part)
                self.size -= len(part)
            parts.append(part)
            length += len(part)
        return b"".join(parts)
