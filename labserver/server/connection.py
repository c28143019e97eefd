"""One client's connection: its place, its signs of life, and how it is ended.

A subclass of the ``websockets`` connection. Three of its callbacks are where life and
pressure can be seen: ``data_received``, ``pause_writing`` and ``resume_writing``.

What the library offers to end a connection (``close()``, its keepalive) waits for the
peer to read, and so waits forever for a peer that has stopped. Here every goodbye has
a deadline, and the last word is ``transport.abort()``.

The server hears of three moments: the socket is there (:meth:`Host.arrived`), nothing
goes out any more (:meth:`Host.left`), the socket is closed (:meth:`Host.lost`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Coroutine
from typing import Any, Protocol

from msgspec import Struct
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidMessage
from websockets.frames import CTRL_OPCODES, Frame
from websockets.http11 import Request
from websockets.protocol import CONNECTING, OPEN, SEND_EOF, Event

from labserver.contract import messages, wire
from labserver.contract.closing import RATE_LIMITED, TOO_SLOW, Close
from labserver.contract.tokens import ANONYMOUS
from labserver.server import routes
from labserver.server.intake import STEP, gated
from labserver.server.limits import TokenBucket
from labserver.server.member import GOODBYE_TIMEOUT, LAST_LOOK, SHUT, Outbox
from labserver.server.places import Place
from labserver.server.proxies import UNKNOWN, normal
from labserver.server.sockets import OVER
from labserver.server.turns import Share, Turns, charged

log = logging.getLogger("labserver")

HEAD_LIMIT = 16384  # bytes of a handshake; as on the port of event streams
SLOWEST = 8192  # bytes a second at which a long message may come, whatever its deadline
UNFINISHED = TOO_SLOW.because("a message was begun and not finished")
DROPPED_LIMIT = 1000  # frames read after a goodbye: what may have been on its way
PARSING = 100e-6  # seconds that parsing a few frames counts as at most


class Host(Protocol):
    """What a connection tells its server, and asks of it."""

    patience: float  # seconds for a handshake, and for a message that began
    turns: Turns  # where connections stand in line for the event loop

    def arrived(self, connection: LabConnection) -> Place:
        """Note that a socket is open; return its place."""

    def left(self, connection: LabConnection) -> None:
        """Take a connection out of every room: nothing goes out to it any more."""

    def lost(self, connection: LabConnection) -> None:
        """Note that a socket is closed."""


class LabConnection(ServerConnection):
    """A connection of the lab, from handshake to end.

    Args:
        host: The server that it is a connection of.

    """

    # What the library keeps fills the 30 keys that instances may share; one more would
    # cost each idle connection 2 KB for a dictionary of its own.
    __slots__ = (
        "address",
        "asked",
        "began",
        "bucket",
        "deadline",
        "dropped",
        "ending",
        "expiry",
        "finished",
        "gate",
        "gone",
        "host",
        "identity",
        "in_flight",
        "name",
        "outbox",
        "part",
        "pinged",
        "place",
        "room_for_head",
        "rooms",
        "seen",
        "share",
        "unread",
        "unsent",
        "variant",
    )

    def __init__(self, host: Host, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.host = host
        self.gate = gated(self.protocol)
        self.share = Share(host.turns)
        self.asked = False  # for a turn, to parse
        self.unread = False  # whether reading stopped, with bytes that wait
        self.dropped = 0  # frames that came after this side's goodbye
        self.address = UNKNOWN  # of the client, as far as is known
        self.began = b""  # how the request began: with its method
        self.room_for_head = HEAD_LIMIT  # bytes that may still come before its end
        self.part: Frame | None = None  # what came of a message in fragments
        self.finished = 0  # messages that came to their end
        self.name = secrets.token_hex(6)
        self.identity = ANONYMOUS
        self.variant = wire.PLAIN
        self.outbox: Outbox = SHUT
        self.rooms: set[str] = set()  # kept by the hub
        self.seen = time.monotonic()  # the last sign of life
        self.pinged = 0.0  # the last ping; 0 when none waits for an answer
        self.unsent = 0  # bytes in the socket's buffer at that time
        self.bucket: TokenBucket | None = None
        self.in_flight = 0  # publishes that wait for the broker
        self.ending: Close | None = None  # why this side ends it
        self.gone = False  # whether nothing goes out any more
        # Of its handshake, then of a message that began, then of its end.
        self.deadline: asyncio.TimerHandle | None = None
        self.expiry: asyncio.TimerHandle | None = None
        self.place: Place

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.recv_messages.pause = _nothing  # feed() sees to it
        self.recv_messages.resume = self.feed
        if peer := self.remote_address:  # one that is gone already has no name
            self.address = normal(str(peer[0]))
        self.place = self.host.arrived(self)
        # It was made when the socket was accepted: TLS has had of this time.
        left = self.seen + self.host.patience - time.monotonic()
        self.deadline = self.loop.call_later(max(0.0, left), self.run_out)

    def forget_handshake(self) -> None:
        """Let go of what an idle connection need not keep: headers, logger (2 KB)."""
        self.request, self.response, self.began = NO_REQUEST, None, b"GET "
        if self.deadline is not None and not self.gone:
            self.deadline.cancel()
            self.deadline = None
            if self.unfinished():
                self.expect(self.host.patience, self.finished, self.seen)
        self.logger = self.protocol.logger = self.server.logger

    # Reading

    def data_received(self, data: bytes) -> None:
        self.seen = time.monotonic()
        if not self.began:
            self.began = data[:8]
        if self.request is None:
            data = self.read_head(data)
        self.gate.feed_data(data)
        if not self.unread:  # else it is parsed when there is room
            self.feed()

    def feed(self) -> None:
        """Parse what was read while there is room for it; read on when all is parsed.

        A connection holds at most one read of the socket (256 KB), the messages of a
        full queue (20 frames, inflated), and the one that is being served.
        """
        if self.gate.eof:
            return
        within = self.share.available()
        started = now = time.monotonic()
        rest, steps = True, 0
        while not self.recv_messages.paused and self.dropped <= DROPPED_LIMIT:
            if now - started >= within:
                self.ask()
                break
            self.gate.credit, self.gate.shut = STEP, False
            super().data_received(b"")
            now = time.monotonic()
            steps += 1
            if not self.gate.shut:
                rest = self.recv_messages.paused
                break
        self.share.spend(min(now - started, steps * PARSING))
        if rest:
            self.stop_reading()
        elif self.unread:
            self.unread = False
            self.transport.resume_reading()
        if self.deadline is None and not rest and self.unfinished():
            self.expect(self.host.patience, self.finished, self.seen)

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

    def read_head(self, data: bytes) -> bytes:
        """Read a handshake that is no longer than it may be; return what follows it.

        What comes for longer is answered without being kept: its author has shown no
        token yet.
        """
        head, rest = data[: self.room_for_head], data[self.room_for_head :]
        self.room_for_head -= len(head)
        if not rest or self.gone:
            return head
        super().data_received(head)
        if self.request is None and not self.gone:
            answer = routes.respond(431, "the handshake is too long\n")
            self.protocol.send_response(answer)
            self.send_data()
        return b"" if self.gone else rest

    def unfinished(self) -> bool:
        """Whether a message has begun and not come to its end."""
        return self.part is not None or bool(self.protocol.reader.buffer)

    def expect(
        self, within: float, finished: int, since: float, last: bool = False
    ) -> None:
        """Look ``within`` seconds whether the message that began has come."""
        self.deadline = self.loop.call_later(
            within, self.look_at_message, finished, since, last
        )

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
        if finished != self.finished or not self.transport.is_reading():
            self.expect(patience, self.finished, now)  # another; or it is not its fault
            return
        size = len(self.protocol.reader.buffer)
        size += 0 if self.part is None else len(self.part.data)
        left = since + max(patience, size / SLOWEST) - now
        if left > 0:
            self.expect(left, finished, since)
        elif not last:
            self.expect(LAST_LOOK, finished, since, last=True)
        else:
            self.end(UNFINISHED)

    def process_event(self, event: Event) -> None:
        if self.ending is not None and isinstance(event, Frame):
            # All that matters now is whether the goodbye is answered. Who goes on is
            # not read any more, and aborted when its time is over.
            self.dropped += 1
            return
        # A ping and a crumb of a message cost work too; whole messages are counted
        # when they are read, one by one.
        if isinstance(event, Frame):
            if event.opcode in CTRL_OPCODES:
                self.within_rate()
            elif not event.fin or self.part is not None:
                self.join(event)
                return
            else:
                self.finished += 1
        super().process_event(event)

    def join(self, fragment: Frame) -> None:
        """Put a fragment to those before it: as bytes it costs what it holds.

        As a frame that waits for the last one it costs 150 bytes, empty or not.
        """
        if self.part is None:
            self.part = Frame(fragment.opcode, bytearray(fragment.data))
        else:
            self.part.data += fragment.data  # type: ignore[operator]
        if not fragment.fin:
            self.within_rate()
            return
        whole, self.part = self.part, None
        self.finished += 1
        super().process_event(whole)

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

    async def charged(self, work: Coroutine[Any, Any, None], size: int) -> None:
        """Serve a message of ``size`` bytes, inflated; charge for what it cost."""
        await charged(work, size, self.share, self.bucket)

    def within_rate(self) -> bool:
        """Count one message; say if it may be served. Who goes on and on is closed."""
        if self.bucket is None or self.bucket.take(time.monotonic()):
            return True
        if self.bucket.exhausted:
            self.end(RATE_LIMITED)
        return False

    def returned(self) -> None:
        """Take back the count of a join that goes on where the client was.

        After a break a client enters all its rooms at once, and is no flooder. It
        cannot enter more than it may be in; to do it again it has to leave.
        """
        if self.bucket is not None:
            self.bucket.give_back()

    # Writing

    def reply(self, message: Struct) -> None:
        """Send an answer to this client only."""
        self.outbox.control(wire.frame(self.variant, messages.encode(message)))

    def send_ping(self) -> None:
        """Ask for a sign of life, without waiting for anything."""
        self.pinged = time.monotonic()
        self.unsent = self.transport.get_write_buffer_size()
        if not self.paused:
            self.outbox.control(PING)

    def acknowledge_pings(self, data: bytes) -> None:
        if self.pinged:
            self.latency = self.seen - self.pinged
            self.pinged = 0.0

    def reads(self) -> bool:
        """Return whether the peer took some of what lay in its buffer at the ping."""
        return self.paused and self.transport.get_write_buffer_size() < self.unsent

    def send_data(self) -> None:
        state = self.protocol.state
        if state is not OPEN and (state is not CONNECTING or self.protocol.eof_sent):
            self.answer_unreadable()
            # A goodbye was said, or the peer hung up, broke the protocol, or was
            # refused: from here on it has no more time than this, whatever it does.
            self.leave()
        super().send_data()

    def answer_unreadable(self) -> None:
        """Say what was wrong with a request that could not be read.

        The library hangs up without a word, for a POST with a body, too.
        """
        protocol, exc = self.protocol, self.protocol.handshake_exc
        if not isinstance(exc, InvalidMessage) or protocol.writes != [SEND_EOF]:
            return
        if not isinstance(exc.__cause__, EOFError):  # nobody is there to read it
            response = routes.unreadable(exc.__cause__, self.began)
            protocol.writes.insert(0, response.serialize())

    def pause_writing(self) -> None:
        super().pause_writing()
        self.outbox.paused()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.seen = time.monotonic()  # it reads: it lives
        self.outbox.resumed()

    # Ending

    def end(self, close: Close, within: float = GOODBYE_TIMEOUT) -> None:
        """Say goodbye, and abort unless the peer answers ``within`` seconds."""
        if self.ending is None and self.protocol.state is OPEN:
            self.ending = close
            self.leave(within)
            self.protocol.send_close(close.code, close.reason)
            self.send_data()

    def leave(self, within: float = GOODBYE_TIMEOUT) -> None:
        """Send nothing more, be in no room, and be aborted ``within`` seconds.

        After a close frame no data may follow (RFC 6455 section 5.5.1). A transport at
        its end raises when it is written to, in the middle of what a room's members are
        sent. The first call counts.
        """
        if self.gone:
            return
        self.gone = True
        self.outbox = SHUT
        if self.deadline is not None:
            self.deadline.cancel()
        self.deadline = self.loop.call_later(within, self.run_out)
        # Not now: a room may be in the middle of its members.
        self.loop.call_soon(self.host.left, self)

    def cut(self, close: Close) -> None:
        """End at once, whatever waits in the buffer.

        The close frame is tried: it arrives when the peer's window has room.
        """
        try:
            self.end(close)
        finally:
            self.ending = close
            self.transport.abort()

    def run_out(self) -> None:
        """Abort, unless what is waited for has come and is only not read yet."""
        self.deadline = self.loop.call_later(LAST_LOOK, self.abort)

    def abort(self) -> None:
        """End at once; nothing if the socket is gone already."""
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.recv_messages.resume = _nothing  # what refers to itself is freed late
        self.leave()
        if self.deadline is not None:
            self.deadline.cancel()
        super().connection_lost(exc)
        self.transport = OVER
        self.host.lost(self)


def _nothing() -> None:
    pass


# The library takes a connection without a request for one in handshake.
NO_REQUEST = Request("", Headers())
PING = bytes((0x89, 0))  # FIN, opcode 9, no payload
