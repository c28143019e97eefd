"""A connection that ends in time, whatever its peer does.

Without this, a peer that has stopped reading is never closed: the library's ways to end
a connection (``close()``, its keepalive) wait until the peer reads.

How: every goodbye has a deadline, after which the socket is ended with
``transport.abort()``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection
from websockets.protocol import CONNECTING, OPEN
from websockets.server import ServerProtocol

from labserver.contract.closing import Close
from labserver.server.member import GOODBYE_TIMEOUT, LAST_LOOK, SHUT, Outbox
from labserver.server.metrics import CLIENT, NETWORK, SERVER
from labserver.server.sockets import OVER

# The library's server would start a task for each socket, and count connections again.
NO_SERVER: Any = None


class EndableConnection(ServerConnection):
    """A connection with one deadline at a time, and with an outbox that can be shut."""

    __slots__ = ("deadline", "ending", "gone", "outbox")

    def __init__(self, protocol: ServerProtocol, write_limit: int) -> None:
        super().__init__(
            protocol,
            NO_SERVER,
            ping_interval=None,
            close_timeout=None,
            write_limit=write_limit,
        )
        self.outbox: Outbox = SHUT
        self.ending: Close | None = None  # why the server ends it
        self.gone = False  # whether nothing is sent any more
        # The deadline of the handshake, later of an unfinished message, or of its end.
        self.deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not ServerConnection's: a client has a task from its hello on.
        Connection.connection_made(self, transport)

    @property
    def closed_by(self) -> str:
        """Who ended it: ``SERVER``, ``CLIENT``, or ``NETWORK`` without any goodbye."""
        if self.ending is not None:
            return SERVER
        said, heard = self.protocol.close_sent, self.protocol.close_rcvd
        if heard is not None and (said is None or self.protocol.close_rcvd_then_sent):
            return CLIENT
        # The library says goodbye by itself to a client that breaks the protocol.
        return SERVER if said is not None else NETWORK

    def end(self, close: Close, within: float = GOODBYE_TIMEOUT) -> None:
        """Say goodbye, and abort unless the peer answers ``within`` seconds."""
        if self.ending is None and self.protocol.state is OPEN:
            self.ending = close
            self.leave(within)
            self.protocol.send_close(close.code, close.reason)
            self.send_data()

    def leave(self, within: float = GOODBYE_TIMEOUT) -> None:
        """Send nothing more, leave all rooms, and abort after ``within`` seconds.

        No data may follow a close frame (RFC 6455 section 5.5.1). A write to a
        transport that has ended would raise, in the middle of a room's delivery. Only
        the first call has an effect.
        """
        if self.gone:
            return
        self.gone = True
        self.outbox = SHUT
        self.set_deadline(within, self.run_out)
        # Not now: a room may be in the middle of a delivery to its members.
        self.loop.call_soon(self.left)

    def left(self) -> None:
        """Called when nothing is sent any more; a subclass leaves its rooms here."""

    def cut(self, close: Close) -> None:
        """End at once, and discard the buffer.

        A close frame is still written: it arrives if the peer's window has space.
        """
        try:
            self.end(close)
        finally:
            self.ending = close
            self.transport.abort()

    def run_out(self) -> None:
        """Abort a moment later: the peer's answer may have arrived and be unread."""
        self.set_deadline(LAST_LOOK, self.abort)

    def abort(self) -> None:
        """End at once; do nothing if the socket is closed already."""
        self.transport.abort()

    def set_deadline(
        self, within: float, then: Callable[..., object], *args: object
    ) -> None:
        """Call ``then`` after ``within`` seconds. This replaces the deadline before."""
        self.drop_deadline()
        self.deadline = self.loop.call_later(within, then, *args)

    def drop_deadline(self) -> None:
        """Cancel the deadline; do nothing if there is none."""
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def send_data(self) -> None:
        """Send the protocol's bytes; with a goodbye, the end gets a deadline."""
        state = self.protocol.state
        if state is not OPEN and (state is not CONNECTING or self.protocol.eof_sent):
            self.add_last_words()
            # One side said goodbye, or the peer hung up, broke the protocol or was
            # refused: from now on the end of the connection has a deadline.
            self.leave()
        super().send_data()

    def add_last_words(self) -> None:
        """Add a last answer to ``protocol.writes``; a subclass may do so."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()
        self.drop_deadline()
        super().connection_lost(exc)
        self.transport = OVER
        self.untangle()

    def untangle(self) -> None:
        """Break the library's reference cycles, so that all is freed at once.

        The parser refers to its protocol, and the traceback of each exception to the
        connection. Call this when the socket is closed, and when all is served.
        """
        protocol = self.protocol
        protocol.parser.close()
        protocol.parser_exc = protocol.handshake_exc = self.connection_exc = None
