"""A connection that reads at the pace at which its messages are served.

Bytes are parsed a few frames at a time, while the queue of messages has space and this
connection may use the event loop. Other bytes wait unparsed, and then in the kernel. So
a connection holds at most one read of the socket (256 KB), the messages of a full queue
(20, inflated), and the message that is being served.

The head of a request and an unfinished message have a size limit and a deadline. After
the server's goodbye no message is served.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine
from typing import Any, Protocol

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidMessage
from websockets.frames import CTRL_OPCODES, TEXT, Frame
from websockets.http11 import Request
from websockets.protocol import SEND_EOF, Event

from labserver.contract.closing import RATE_LIMITED, TOO_SLOW
from labserver.server import routes
from labserver.server.ending import EndableConnection
from labserver.server.intake import QUEUE, STEP, Fragments, Head
from labserver.server.limits import TokenBucket
from labserver.server.member import LAST_LOOK
from labserver.server.turns import Share, Turns, charged
from labserver.server.upgrade import LabProtocol, library_log, plain_request

SLOWEST = 8192  # bytes a second: a message at this rate may exceed its deadline
UNFINISHED = TOO_SLOW.because("a message was begun and not finished")
DROPPED_LIMIT = 1000  # frames read after a goodbye: they may have been on their way
PONG = bytes((0x8A, 0x80))  # FIN, opcode 10; masked, no payload; then the mask
PARSING = 100e-6  # seconds that parsing a few frames counts as at most


class Pace(Protocol):
    """What a connection needs from its server to read."""

    patience: float  # seconds for a handshake, and for a message that has begun
    turns: Turns  # the line of connections for the event loop


class PacedConnection(EndableConnection):
    """A connection that bounds and paces its reading.

    Args:
        host: The server of the connection.
        protocol: Its protocol.
        write_limit: Bytes that may wait unsent until writing pauses.

    """

    protocol: LabProtocol

    __slots__ = (
        "asked",
        "bucket",
        "dropped",
        "fragments",
        "gate",
        "head",
        "host",
        "seen",
        "served",
        "share",
        "unread",
    )

    def __init__(self, host: Pace, protocol: LabProtocol, write_limit: int) -> None:
        super().__init__(protocol, write_limit)
        self.host = host
        self.gate = protocol.reader
        self.head: Head | None = Head()  # until the handshake is over
        self.fragments = Fragments()
        self.bucket: TokenBucket | None = None  # of messages; None for no limit
        self.share = Share(host.turns)
        self.asked = False  # whether it waits for a turn to parse
        self.served = False  # whether a task serves its messages
        self.unread = False  # whether reading is paused, with bytes that wait
        self.dropped = 0  # frames that came after the server's goodbye
        self.seen = time.monotonic()  # time of the last sign of life

    def forget_handshake(self) -> None:
        """Free 3 KB that an idle connection does not need."""
        self.request, self.response, self.head = NO_REQUEST, None, None
        self.logger = self.protocol.logger = library_log
        # The library's queue takes 600 bytes, and is only used by its send().
        self.drain_waiters = []  # type: ignore[assignment]
        if not self.gone:
            self.drop_deadline()
            self.watch_message()

    # A head and frames

    def data_received(self, data: bytes) -> None:
        self.seen = time.monotonic()
        if self.request is None and self.head is not None:
            if not self.head.start and (request := plain_request(data)) is not None:
                self.head.start = data[:8]
                return self.process_event(request)
            data = self.read_head(self.head, data)
        elif len(data) == 6 and data.startswith(PONG) and self.awaits_frame():
            # Nothing but the answer to a ping: 1 us here, 9 us by the parser.
            self.within_rate()
            self.acknowledge_pings(b"")
            return
        self.gate.feed_data(data)
        if not self.unread:  # otherwise it is parsed when the queue has space
            self.feed()

    def awaits_frame(self) -> bool:
        """Return whether the next byte is the first of a frame that matters."""
        return self.gate.between and self.ending is None

    def read_head(self, head: Head, data: bytes) -> bytes:
        """Read a head up to its limit; return the bytes that are to be parsed.

        A head that is too long is answered and not kept: its sender has shown no token
        yet.
        """
        part, rest = head.split(data)
        if not rest or self.gone:
            return part
        super().data_received(part)
        if self.request is None and not self.gone:
            answer = routes.respond(431, "the handshake is too long\n")
            self.protocol.send_response(answer)
            self.send_data()
        return b"" if self.gone else rest

    def add_last_words(self) -> None:
        """Answer a request that cannot be parsed.

        The library would hang up without an answer, also for a POST with a body.
        """
        protocol, exc = self.protocol, self.protocol.handshake_exc
        if not isinstance(exc, InvalidMessage) or protocol.writes != [SEND_EOF]:
            return
        if not isinstance(exc.__cause__, EOFError):  # the peer is still there
            start = self.head.start if self.head else b""
            response = routes.unreadable(exc.__cause__, start)
            protocol.writes.insert(0, response.serialize())

    def feed(self) -> None:
        """Parse bytes while the queue has space; read on when all are parsed."""
        if self.gate.eof:
            return
        within = self.share.available()
        started = now = time.monotonic()
        queue = self.recv_messages
        inflates = bool(self.protocol.extensions)
        rest, steps = True, 0
        while not queue.paused and self.dropped <= DROPPED_LIMIT:
            if now - started >= within:
                self.ask()
                break
            # Frames that inflate are parsed in smaller steps: 129 bytes may be 65,000.
            room = STEP if inflates else max(STEP, QUEUE - len(queue.frames))
            self.gate.credit, self.gate.shut = room, False
            super().data_received(b"")
            now = time.monotonic()
            steps += 1
            if not self.gate.shut:
                rest = queue.paused
                break
        self.share.spend(min(now - started, steps * PARSING))
        if rest:
            self.stop_reading()
        elif self.unread:
            self.unread = False
            self.transport.resume_reading()
        if self.deadline is None and not rest:
            self.watch_message()

    def ask(self) -> None:
        """Go on to parse at this connection's next turn."""
        if not self.asked:
            self.asked = True
            self.share.turns.ask(self.take_turn)

    def take_turn(self) -> None:
        self.asked = False
        self.share.begin()
        self.feed()

    def stop_reading(self) -> None:
        if not self.unread:
            self.unread = True
            self.transport.pause_reading()

    def process_event(self, event: Event) -> None:
        if self.ending is not None and isinstance(event, Frame):
            # Only the answer to the goodbye matters now. A peer that goes on to send is
            # not read after a while, and aborted at its deadline.
            self.dropped += 1
            return
        # Pings and fragments cost work, too. Whole messages are counted later, when
        # they are served one by one.
        if isinstance(event, Frame):
            if event.opcode in CTRL_OPCODES:
                self.within_rate()
            elif (whole := self.fragments.add(event)) is None:
                self.within_rate()
                return
            else:
                self.recv_messages.put(whole)
                if not self.served:
                    self.served = True
                    self.heard()
                return
        if isinstance(event, Request):
            self.request = event
            self.requested(event)
        else:
            super().process_event(event)

    def requested(self, request: Request) -> None:
        """Called with the request; a subclass answers it."""

    def heard(self) -> None:
        """Called when a message waits and none is served; a subclass serves them."""

    # Messages

    def watch_message(self) -> None:
        """Set a deadline for an unfinished message, if there is one."""
        if self.unfinished():
            self.look_later(self.host.patience, self.fragments.finished, self.seen)

    def unfinished(self) -> bool:
        """Return whether a message has begun to arrive and is not complete."""
        return self.fragments.part is not None or bool(self.gate.buffer)

    def look_later(
        self, within: float, finished: int, since: float, last: bool = False
    ) -> None:
        self.set_deadline(within, self.look_at_message, finished, since, last)

    def look_at_message(self, finished: int, since: float, last: bool) -> None:
        """End a connection whose unfinished message does not arrive in time.

        Args:
            finished: Number of finished messages when the wait for this one began.
            since: Time at which the wait began.
            last: Whether this is the second check, which ends the connection.

        """
        self.deadline = None
        patience, now = self.host.patience, time.monotonic()
        if self.gone or not self.unfinished():
            return
        if finished != self.fragments.finished or not self.transport.is_reading():
            # It is another message, or the server itself does not read.
            self.look_later(patience, self.fragments.finished, now)
            return
        size = self.fragments.size + len(self.gate.buffer)
        left = since + max(patience, size / SLOWEST) - now
        if left > 0:
            self.look_later(left, finished, since)
        elif not last:
            self.look_later(LAST_LOOK, finished, since, last=True)
        else:
            self.end(UNFINISHED)

    async def receive(self) -> str | bytes | None:
        """Return the next message that waits, at its turn; None if there is none."""
        data: str | bytes | None = self.next_text()
        if data is None:
            if not self.recv_messages.frames:
                self.share.rest()
                self.served = False
                return None
            try:
                data = await self.recv()
            except ConnectionClosed:
                return None  # and it is served no more
        if not self.share.allows(len(data)):
            await self.share.turns.wait()
            self.share.begin()
        return data

    def next_text(self) -> str | None:
        """Return a text that waits in the queue; None if ``recv()`` has to look.

        The library's ``recv()`` would return the same in four times the time.
        """
        frames = self.recv_messages.frames.queue
        if not frames or frames[0].opcode is not TEXT:
            return None
        try:
            text = str(frames[0].data, "utf-8")
        except UnicodeDecodeError:
            return None
        frames.popleft()
        self.recv_messages.maybe_resume()
        return text

    def charged(
        self, work: Coroutine[Any, Any, None], size: int
    ) -> Coroutine[Any, Any, None]:
        """Serve a message of ``size`` inflated bytes; charge for the time it took."""
        return charged(work, size, self.share, self.bucket)

    def within_rate(self) -> bool:
        """Count one message; return whether it may be served.

        A peer that goes on to send above its rate is closed.
        """
        if self.bucket is None or self.bucket.take(time.monotonic()):
            return True
        if self.bucket.exhausted:
            self.end(RATE_LIMITED)
        return False


# To the library, a connection without a request is still in its handshake.
NO_REQUEST = Request("", Headers())
