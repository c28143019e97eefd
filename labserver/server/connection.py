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
from typing import Any, Protocol

from msgspec import Struct
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidMessage
from websockets.frames import CTRL_OPCODES, Frame
from websockets.http11 import Request
from websockets.protocol import CONNECTING, OPEN, SEND_EOF, Event

from labserver.contract import messages, wire
from labserver.contract.closing import RATE_LIMITED, Close
from labserver.contract.tokens import ANONYMOUS
from labserver.server import routes
from labserver.server.limits import TokenBucket
from labserver.server.places import Place
from labserver.server.proxies import UNKNOWN, BadHeader, Proxies, normal, read_header
from labserver.server.sockets import OVER

log = logging.getLogger("labserver")

GOODBYE_TIMEOUT = 2.0  # seconds that a peer has to answer a close frame


class Outbox(Protocol):
    """What stands between a room and a member's socket."""

    def deliver(self, chunk: wire.Chunk) -> None:
        """Send a room's messages, or account for them."""

    def control(self, frame: bytes) -> None:
        """Send an answer, which is never dropped."""

    def paused(self) -> None:
        """Note that the socket takes no more."""

    def resumed(self) -> None:
        """Note that the socket has taken everything."""

    def waiting(self) -> int:
        """Return the bytes that wait in the application."""


class Host(Protocol):
    """What a connection tells its server, and asks of it."""

    proxies: Proxies  # whom it believes where a client is
    nameless: str  # address of a client whose socket names none

    def arrived(self, connection: LabConnection) -> Place:
        """Note that a socket is open; return its place."""

    def left(self, connection: LabConnection) -> None:
        """Take a connection out of every room: nothing goes out to it any more."""

    def lost(self, connection: LabConnection) -> None:
        """Note that a socket is closed."""


class Shut:
    """The outbox of a connection that is ending: nothing more goes out."""

    def deliver(self, chunk: wire.Chunk) -> None:
        pass

    def control(self, frame: bytes) -> None:
        pass

    def paused(self) -> None:
        pass

    def resumed(self) -> None:
        pass

    def waiting(self) -> int:
        return 0


SHUT = Shut()


class LabConnection(ServerConnection):
    """A connection of the lab, from handshake to end.

    Args:
        host: The server that it is a connection of.

    """

    # What the library keeps fills the 30 keys that instances may share; one more would
    # cost each idle connection 2 KB for a dictionary of its own.
    __slots__ = (
        "address",
        "began",
        "bucket",
        "deadline",
        "ending",
        "expiry",
        "gone",
        "host",
        "identity",
        "in_flight",
        "name",
        "outbox",
        "pinged",
        "place",
        "preamble",
        "rooms",
        "seen",
        "unsent",
        "variant",
    )

    def __init__(self, host: Host, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.host = host
        self.address = UNKNOWN  # of the client, as far as is known
        self.preamble: bytes | None = None  # what came of a PROXY header
        self.began = b""  # how the request began: with its method
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
        self.deadline: asyncio.TimerHandle | None = None  # of its end
        self.expiry: asyncio.TimerHandle | None = None
        self.place: Place

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # A Unix socket's peer has no name, and neither has one that is gone already.
        peer = self.remote_address
        self.address = normal(str(peer[0])) if peer else self.host.nameless
        self.place = self.host.arrived(self)
        if self.host.proxies.proxy_protocol and self.place.through:
            self.preamble = b""

    def forget_handshake(self) -> None:
        """Let go of what an idle connection need not keep: headers, logger (2 KB)."""
        self.request, self.response, self.began = NO_REQUEST, None, b"GET "
        self.logger = self.protocol.logger = self.server.logger

    # Reading

    def data_received(self, data: bytes) -> None:
        self.seen = time.monotonic()
        if self.preamble is not None:
            data = self.read_preamble(data)
            if not data:
                return
        if not self.began:
            self.began = data[:8]
        super().data_received(data)

    def read_preamble(self, data: bytes) -> bytes:
        """Take the PROXY header off; return what follows it, once it is complete.

        There is no guessing whether a header is there: a client that can leave it out,
        or add a second one, chooses its own address. The deadline of the handshake
        counts from before.
        """
        assert self.preamble is not None
        self.preamble += data
        try:
            found = read_header(self.preamble)
        except BadHeader as exc:
            about = {"connection": self.name, "address": self.address}
            log.info("a trusted proxy sent %s", exc, extra=about)
            self.transport.abort()
            self.preamble = b""  # nothing that is still read may count as a request
            return b""
        if found is None:
            return b""
        address, size = found
        self.address = address or self.address
        rest, self.preamble = self.preamble[size:], None
        return rest

    def process_event(self, event: Event) -> None:
        super().process_event(event)
        # A ping and a crumb of a message cost work too; whole messages are counted
        # when they are read, one by one.
        if isinstance(event, Frame) and (event.opcode in CTRL_OPCODES or not event.fin):
            self.within_rate()

    async def receive(self) -> str | bytes | None:
        """Return the next message, or None when the connection is over."""
        try:
            return await self.recv()
        except ConnectionClosed:
            return None

    def within_rate(self) -> bool:
        """Count one message; say if it may be served. Who goes on and on is closed."""
        if self.bucket is None or self.bucket.take(time.monotonic()):
            return True
        if self.bucket.exhausted:
            self.end(RATE_LIMITED)
            if self.bucket.level <= -2 * self.bucket.burst:  # it does not even read
                self.transport.abort()
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
        self.deadline = self.loop.call_later(within, self.abort)
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

    def abort(self) -> None:
        """End at once; nothing if the socket is gone already."""
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()
        if self.deadline is not None:
            self.deadline.cancel()
        super().connection_lost(exc)
        self.transport = OVER
        self.host.lost(self)


# The library takes a connection without a request for one in handshake.
NO_REQUEST = Request("", Headers())
PING = bytes((0x89, 0))  # FIN, opcode 9, no payload
