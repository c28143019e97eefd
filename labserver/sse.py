"""A room as a stream of server-sent events (WHATWG HTML section 9.2).

Each message is an event whose id is ``epoch:seq``. A client that comes back sends the
newest as ``Last-Event-ID``, by itself where it is a browser's EventSource, and that is
the cursor of a ``join``.

What waits for a slow reader is bounded by the same outboxes as on a WebSocket: they
write to a :class:`Body`, which takes the place of a connection's transport. A stream is
one task and a few wake-ups a write dearer than a WebSocket.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import anyio
from msgspec import Struct
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from labserver import closing, messages, wire
from labserver.closing import Close
from labserver.messages import Cursor, Joined
from labserver.visitor import Visitor

# An EventSource comes back after a fixed time: a crash would bring everybody at once.
RETURN_AFTER = (1000, 5000)  # milliseconds, drawn for each


class Closed(Struct, frozen=True, tag_field="type", tag="close"):
    """What a close frame says, for those who cannot be sent one."""

    code: int
    reason: str


class Body:
    """A response's body, as the transport that an outbox knows.

    It counts as full from the first byte that the socket has not taken.
    """

    def __init__(self, stream: Stream, socket: asyncio.Transport) -> None:
        self.stream = stream
        self.socket = socket
        self.pending: list[bytes] = []
        self.size = 0  # bytes pending, and those that are being sent
        self.news = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.pending.append(data)
        self.size += len(data)
        self.news.set()
        if not self.stream.paused:
            self.stream.paused = True
            self.stream.outbox.paused()

    def get_write_buffer_size(self) -> int:
        if self.socket.is_closing():  # behind TLS there may be nobody to ask any more
            return self.size
        return self.size + self.socket.get_write_buffer_size()

    def get_extra_info(self, name: str) -> Any:
        """Return None: an outbox may not write past the response."""

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield what is written; whoever iterates comes back when that was sent."""
        while True:
            while not self.pending:
                if self.stream.ending is not None:
                    return
                self.news.clear()
                await self.news.wait()
            data = b"".join(self.pending)
            self.pending.clear()
            yield data
            self.size -= len(data)
            if not self.pending:
                self.stream.paused = False
                self.stream.outbox.resumed()


class Stream(Visitor):
    """A member of one room that listens.

    Args:
        address: Where it comes from.
        socket: What the response goes out on.
        cursor: What it asked to be given the messages after.

    """

    variant = wire.STREAM

    def __init__(
        self, address: str, socket: asyncio.Transport, cursor: Cursor | None
    ) -> None:
        super().__init__(address, socket)
        self.cursor = cursor
        self.transport = Body(self, socket)

    def reply(self, message: Struct) -> None:
        id = retry = ""
        if isinstance(message, Joined):
            # What was missed comes after this event: who is lost in between has
            # nothing newer yet than the cursor that it came with, or, if only the
            # numbering changed, than the latest id.
            cursor, self.cursor = self.cursor, None
            if not message.recovered:
                cursor = Cursor(message.epoch, message.seq)
            id = f"{cursor.epoch}:{cursor.seq}" if cursor else ""
            retry = f"retry: {random.randint(*RETURN_AFTER)}\n"
        event = wire.stream_event(messages.encode(message), id)
        self.outbox.control(retry.encode() + event)

    def ended(self) -> None:
        """Say why, as the last event, and when to come back."""
        assert self.ending is not None
        self.transport.write(farewell(self.ending))


def farewell(close: Close) -> bytes:
    """Return the last event of a stream."""
    after = closing.retry_after(close.reason)
    retry = b"" if after is None else b"retry: %d\n" % round(after * 1000)
    last = Closed(close.code, close.reason)
    return retry + wire.stream_event(messages.encode(last))


class StreamResponse(EventSourceResponse):
    """The response that a stream is.

    Args:
        stream: The member.
        keepalive: Seconds between two comments; None for none.
        leave: Closed when the response is over, however it ends.

    """

    def __init__(
        self, stream: Stream, keepalive: float | None, leave: ExitStack
    ) -> None:
        super().__init__(
            stream.transport.parts(),
            ping=keepalive or 0,
            ping_message_factory=lambda: ServerSentEvent(comment="keepalive", sep="\n"),
            sep="\n",
        )
        self.leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.leave:
            await super().__call__(scope, receive, send)

    async def _listen_for_exit_signal_with_grace(self) -> None:
        """Leave the end to the server's drain.

        The library would poll twice a second, in a task that outlives the server, for
        a uvicorn that handles signals.
        """
        await anyio.sleep_forever()
