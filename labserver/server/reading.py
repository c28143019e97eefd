"""A connection that reads at the pace at which its messages are served.

What is read is parsed a few frames at a time, while the queue of messages has room and
this connection may use the event loop. The rest waits unparsed, and then in the kernel.
So a connection holds at most one read of the socket (256 KB), the messages of a full
queue (20, inflated), and the message that is being served.

A request's head and a message that began are bounded, and have a deadline. After the
server's goodbye nothing is served any more.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine
from typing import Any, Protocol

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidMessage
from websockets.frames import CTRL_OPCODES, Frame
from websockets.http11 import Request
from websockets.protocol import SEND_EOF, Event

from labserver.contract.closing import RATE_LIMITED, TOO_SLOW
from labserver.server import routes
from labserver.server.ending import EndableConnection
from labserver.server.intake import QUEUE, STEP, Fragments, Head, gated
from labserver.server.limits import TokenBucket
from labserver.server.member import LAST_LOOK
from labserver.server.turns import Share, Turns, charged

SLOWEST = 8192  # bytes a second at which a long message may come, whatever its deadline
UNFINISHED = TOO_SLOW.because("a message was begun and not finished")
DROPPED_LIMIT = 1000  # frames read after a goodbye: what may have been on its way
PARSING = 100e-6  # seconds that parsing a few frames counts as at most


class Pace(Protocol):
    """What sets the pace of a connection: its server."""

    patience: float  # seconds for a handshake, and for a message that began
    turns: Turns  # where connections stand in line for the event loop


class PacedConnection(EndableConnection):
    """A connection that takes no more than it may.

    Args:
        host: The server that it is a connection of.

    """

    __slots__ = (
        "asked",
        "bucket",
        "dropped",
        "fragments",
        "gate",
        "head",
        "host",
        "seen",
        "share",
        "unread",
    )

    def __init__(self, host: Pace, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.host = host
        self.gate = gated(self.protocol)
        self.head: Head | None = Head()  # until the handshake is over
        self.fragments = Fragments()
        self.bucket: TokenBucket | None = None  # of messages; None for no limit
        self.share = Share(host.turns)
        self.asked = False  # for a turn, to parse
        self.unread = False  # whether reading stopped, with bytes that wait
        self.dropped = 0  # frames that came after this side's goodbye
        self.seen = time.monotonic()  # the last sign of life

    def forget_handshake(self) -> None:
        """Let go of what an idle connection need not keep: 3 KB."""
        self.request, self.response, self.head = NO_REQUEST, None, None
        self.logger = self.protocol.logger = self.server.logger
        # The library's queue takes 600 bytes, and is for those who call its send().
        self.drain_waiters = []  # type: ignore[assignment]
        if not self.gone:
            self.drop_deadline()
            self.watch_message()

    # A head and frames

    def data_received(self, data: bytes) -> None:
        self.seen = time.monotonic()
        if self.request is None and self.head is not None:
            data = self.read_head(self.head, data)
        self.gate.feed_data(data)
        if not self.unread:  # else it is parsed when there is room
            self.feed()

    def read_head(self, head: Head, data: bytes) -> bytes:
        """Read a head that is no longer than it may be; return what follows it.

        What comes for longer is answered without being kept: its author has shown no
        token yet.
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
        """Say what was wrong with a request that could not be read.

        The library hangs up without a word, for a POST with a body, too.
        """
        protocol, exc = self.protocol, self.protocol.handshake_exc
        if not isinstance(exc, InvalidMessage) or protocol.writes != [SEND_EOF]:
            return
        if not isinstance(exc.__cause__, EOFError):  # nobody is there to read it
            start = self.head.start if self.head else b""
            response = routes.unreadable(exc.__cause__, start)
            protocol.writes.insert(0, response.serialize())

    def feed(self) -> None:
        """Parse what was read while there is room; read on when all is parsed."""
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
            # What inflates is looked at more often: 129 bytes may be 65,000.
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
        """Parse on when it is this connection's turn."""
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
            # All that matters now is whether the goodbye is answered. A peer that goes
            # on is not read any more, and aborted when its time is over.
            self.dropped += 1
            return
        # A ping and a fragment of a message cost work, too; whole messages are counted
        # one by one, when they are served.
        if isinstance(event, Frame):
            if event.opcode in CTRL_OPCODES:
                self.within_rate()
            elif (whole := self.fragments.add(event)) is None:
                self.within_rate()
                return
            else:
                event = whole
        super().process_event(event)

    # Messages

    def watch_message(self) -> None:
        """Set a deadline for a message that has begun and not come to its end."""
        if self.unfinished():
            self.look_later(self.host.patience, self.fragments.finished, self.seen)

    def unfinished(self) -> bool:
        """Return whether a message has begun and not come to its end."""
        return self.fragments.part is not None or bool(self.gate.buffer)

    def look_later(
        self, within: float, finished: int, since: float, last: bool = False
    ) -> None:
        self.set_deadline(within, self.look_at_message, finished, since, last)

    def look_at_message(self, finished: int, since: float, last: bool) -> None:
        """End a peer whose message began and does not come.

        Args:
            finished: Messages that had come when this one was first waited for.
            since: When that was.
            last: Whether to judge now.

        """
        self.deadline = None
        patience, now = self.host.patience, time.monotonic()
        if self.gone or not self.unfinished():
            return
        if finished != self.fragments.finished or not self.transport.is_reading():
            # It is another message; or this side did not read.
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
        """Return the next message, when it is this connection's turn to be served.

        None when the connection is over.
        """
        if not self.recv_messages.frames:
            self.share.left = 0.0  # a turn cannot be saved
        try:
            data = await self.recv()
        except ConnectionClosed:
            return None
        if not self.share.allows(len(data)):
            await self.share.turns.wait()
            self.share.begin()
        return data

    def charged(
        self, work: Coroutine[Any, Any, None], size: int
    ) -> Coroutine[Any, Any, None]:
        """Serve a message of ``size`` bytes, inflated; charge for what it cost."""
        return charged(work, size, self.share, self.bucket)

    def within_rate(self) -> bool:
        """Count one message; return whether it may be served.

        A peer that goes on and on beyond its rate is told goodbye.
        """
        if self.bucket is None or self.bucket.take(time.monotonic()):
            return True
        if self.bucket.exhausted:
            self.end(RATE_LIMITED)
        return False


# The library takes a connection without a request for one in handshake.
NO_REQUEST = Request("", Headers())
