"""A long poll: what a room has after a cursor, or the next that it gets.

Between two polls a client is nobody's member. Only the history bridges that, so
without it (before the stage ``resume``) whatever is said between two polls is missed.
"""

from __future__ import annotations

import asyncio

from msgspec import Struct
from msgspec.structs import replace

from labserver.contract import messages, wire
from labserver.contract.messages import Cursor, Joined
from labserver.contract.wire import Chunk
from labserver.http.visitor import Visitor
from labserver.server.member import SHUT, Shut


class Poll(Visitor):
    """A member of one room until there is something to tell.

    Args:
        address: Where it comes from.
        socket: What the response goes out on.
        cursor: What it asked to be given the messages after.
        limit: Bytes of messages in one answer; the rest comes with the next poll.
        remembers: Whether a cursor can be worth something here.

    """

    variant = wire.ARRAY

    def __init__(
        self,
        address: str,
        socket: asyncio.Transport,
        cursor: Cursor | None,
        limit: float,
        remembers: bool,
    ) -> None:
        super().__init__(address, socket)
        self.cursor = cursor
        self.limit = limit
        self.remembers = remembers
        self.outbox = Gathered(self)
        self.joined: Joined | None = None  # its seq is that of the newest item
        self.items: list[bytes] = []
        self.size = 0
        self.ready = asyncio.Event()

    def reply(self, message: Struct) -> None:
        if not isinstance(message, Joined):
            return
        if self.joined is not None and message.recovered:  # goes on in a new epoch
            self.joined = replace(self.joined, epoch=message.epoch)
            return
        if self.joined is not None:  # the numbering was lost and begins anew
            self.items.clear()
            self.ready.set()
        at = self.cursor
        if at is not None and (at.epoch, at.seq) == (message.epoch, message.seq):
            # Nothing was missed, and no history is needed to know that.
            message = replace(message, recovered=True)
        elif not message.recovered and (self.remembers or at is None):
            self.ready.set()  # it needs a cursor first
        self.joined = message

    def gather(self, item: Chunk) -> None:
        assert self.joined is not None
        if self.items and self.size + len(item.data) > self.limit:
            self.outbox = SHUT
            return
        self.items.append(item.data)
        self.size += len(item.data)
        self.joined = replace(self.joined, seq=item.last)
        self.ready.set()

    def ended(self) -> None:
        self.ready.set()

    def text(self) -> bytes:
        """Return the answer: the ``joined`` of a WebSocket, and the messages."""
        assert self.joined is not None
        items = b"".join(self.items)[:-1]
        return messages.encode(self.joined)[:-1] + b',"messages":[%b]}' % items


class Gathered(Shut):
    """The outbox of a poll."""

    def __init__(self, poll: Poll) -> None:
        self.poll = poll

    def deliver(self, chunk: Chunk) -> None:
        for single in chunk.singles():
            if self.poll.outbox is self:
                self.poll.gather(single)
