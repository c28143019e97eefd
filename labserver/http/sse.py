"""A room as a stream of server-sent events (WHATWG HTML section 9.2).

Each message is an event with the id ``epoch:seq``. A client that comes back sends the
newest id as ``Last-Event-ID`` (a browser's EventSource does so by itself). That is the
cursor of a ``join``.

The same outboxes as on a WebSocket bound the messages that wait for a slow reader. They
write to a :class:`Body` instead of a connection's transport. Compared with a WebSocket,
a stream costs one task more, and a few wake-ups for each write.
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
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from labserver.contract import closing, messages, wire
from labserver.contract.closing import Close
from labserver.contract.messages import Cursor, Joined
from labserver.http.visitor import Visitor
from labserver.server.member import GOODBYE_TIMEOUT
from labserver.server.sockets import taken

# An EventSource reconnects after a fixed time, without back-off. After a crash all
# would come back at once; with a short time, each would come again and again.
RETURN_AFTER = (1.0, 5.0)  # seconds; drawn between these for each client


class Closed(Struct, frozen=True, tag_field="type", tag="close"):
    """The content of a close frame, as an event for clients without frames."""

    code: int
    reason: str


class Body:
    """The body of a response, with the methods of a transport that outboxes use.

    It is full from the first byte that the socket has not taken.
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
        if self.socket.is_closing():  # with TLS the transport may already be gone
            return self.size
        return self.size + self.socket.get_write_buffer_size()

    def get_extra_info(self, name: str) -> Any:
        """Return None: an outbox may not write past the response."""

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield written bytes. Each part must have been sent before the next one."""
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
    """A member of one room that only receives.

    Args:
        address: The client's address.
        socket: The transport of the response.
        cursor: Position in the room after which the client wants messages.

    """

    variant = wire.STREAM

    def __init__(
        self, address: str, socket: asyncio.Transport, cursor: Cursor | None
    ) -> None:
        super().__init__(address, socket)
        self.cursor = cursor
        self.transport = Body(self, socket)

    def taken(self) -> int:
        return taken(self.transport.socket)

    def reply(self, message: Struct) -> None:
        id, retry = "", b""
        if isinstance(message, Joined):
            if place := self.place_after(message):
                id = f"{place.epoch}:{place.seq}"
            retry = return_after(random.uniform(*RETURN_AFTER))
        event = wire.stream_event(messages.encode(message), id)
        self.outbox.control(retry + event)

    def place_after(self, joined: Joined) -> Cursor | None:
        """Return the client's cursor after a ``joined``; None if it stays the same.

        Missed messages come after this event. A client that is lost before they arrive
        must come back with its old cursor.
        """
        cursor, self.cursor = self.cursor, None
        return cursor if joined.recovered else Cursor(joined.epoch, joined.seq)

    def end(self, close: Close, within: float = GOODBYE_TIMEOUT) -> None:
        """Finish the response; the time to come back has a lower bound."""
        after = closing.retry_after(close.reason)
        if after is not None:  # a drain; added, since a minimum would undo the spread
            close = closing.draining(RETURN_AFTER[0] + after)
        super().end(close, within)

    def ended(self) -> None:
        """Send the last event: why the stream ends, and when to come back."""
        assert self.ending is not None
        self.transport.write(farewell(self.ending))


def farewell(close: Close) -> bytes:
    """Return the last event of a stream."""
    after = closing.retry_after(close.reason)
    if after is None:
        after = random.uniform(*RETURN_AFTER)
    last = Closed(close.code, close.reason)
    return return_after(after) + wire.stream_event(messages.encode(last))


def return_after(seconds: float) -> bytes:
    """Return the line that tells an EventSource when to come back."""
    return b"retry: %d\n" % round(seconds * 1000)


def turned_away(detail: str, after: float) -> Response:
    """Return a stream that ends at once: a refusal that will pass.

    By its standard an EventSource that gets any status but 200 is closed for good
    (WHATWG HTML section 9.2.2), so 429 and 503 would end a page that should wait.

    Args:
        detail: Why it is refused.
        after: Seconds after which the client may try again.

    """
    after += random.uniform(0.0, RETURN_AFTER[1] - RETURN_AFTER[0])
    return Response(
        farewell(closing.OVERLOADED.because(detail).after(after)),
        headers={"Cache-Control": "no-store"},
        media_type="text/event-stream",
    )


class StreamResponse(EventSourceResponse):
    """The response of a stream.

    Args:
        stream: The member.
        keepalive: Seconds between two comments; None for no comments.
        leave: Closed when the response ends, for whatever reason.

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
        """Wait for ever: the server's drain ends streams.

        The library would check twice a second whether uvicorn has had a signal, in a
        task that outlives the server.
        """
        await anyio.sleep_forever()
