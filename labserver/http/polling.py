"""A long poll: the messages of a room after a cursor, or else its next message.

Between two polls a client is in no room. The history bridges that time. Without a
history (before the stage ``resume``) the client misses the messages between two polls.
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
    """A member of one room until there is something to answer.

    Args:
        address: The client's address.
        socket: The transport of the response.
        cursor: Position in the room after which the client wants messages.
        limit: Bytes of messages in one answer; the rest comes with the next poll.
        remembers: Whether rooms have a history.

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
        self.joined: Joined | None = None  # with the seq of the newest item
        self.items: list[bytes] = []
        self.size = 0
        self.ready = asyncio.Event()

    def reply(self, message: Struct) -> None:
        if not isinstance(message, Joined):
            return
        if self.joined is None:
            self.joined = self.begun(message)
        elif message.recovered:  # the numbering continues in a new epoch
            self.joined = replace(self.joined, epoch=message.epoch)
        else:  # the numbering is lost: the client must know that first
            self.items, self.size = [], 0
            self.joined = message
            self.ready.set()

    def begun(self, joined: Joined) -> Joined:
        """Return the first answer; it is ready if the client needs a cursor first."""
        if self.cursor == Cursor(joined.epoch, joined.seq):
            # Nothing was missed: that is certain without a history.
            return replace(joined, recovered=True)
        if not joined.recovered and (self.remembers or self.cursor is None):
            self.ready.set()
        return joined

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
        """Return the answer as JSON: the ``joined``, with the list of messages."""
        assert self.joined is not None
        items = b"".join(self.items)[:-1]
        return messages.encode(self.joined)[:-1] + b',"messages":[%b]}' % items


class Gathered(Shut):
    """The outbox of a poll: it collects messages for the answer."""

    def __init__(self, poll: Poll) -> None:
        self.poll = poll

    def deliver(self, chunk: Chunk) -> None:
        for single in chunk.singles():
            if self.poll.outbox is self:
                self.poll.gather(single)
