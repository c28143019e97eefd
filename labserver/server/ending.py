"""A connection that comes to its end, whatever its peer does.

The library's ways to end a connection (``close()``, its keepalive) wait until the peer
reads, so they wait forever for a peer that has stopped reading. Here every goodbye has
a deadline, and the last step is ``transport.abort()``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.protocol import CONNECTING, OPEN

from labserver.contract.closing import Close
from labserver.server.member import GOODBYE_TIMEOUT, LAST_LOOK, SHUT, Outbox
from labserver.server.sockets import OVER


class EndableConnection(ServerConnection):
    """A connection with one deadline at a time, and with an outbox that can be shut."""

    __slots__ = ("deadline", "ending", "gone", "outbox")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outbox: Outbox = SHUT
        self.ending: Close | None = None  # why this side ends it
        self.gone = False  # whether nothing goes out any more
        # Of its handshake, then of a message that began, then of its end.
        self.deadline: asyncio.TimerHandle | None = None

    def end(self, close: Close, within: float = GOODBYE_TIMEOUT) -> None:
        """Say goodbye, and abort unless the peer answers ``within`` seconds."""
        if self.ending is None and self.protocol.state is OPEN:
            self.ending = close
            self.leave(within)
            self.protocol.send_close(close.code, close.reason)
            self.send_data()

    def leave(self, within: float = GOODBYE_TIMEOUT) -> None:
        """Send nothing more, be in no room, and be aborted ``within`` seconds.

        After a close frame no data may follow (RFC 6455 section 5.5.1). And a transport
        at its end raises when it is written to, while a room writes to its members.
        Only the first call counts.
        """
        if self.gone:
            return
        self.gone = True
        self.outbox = SHUT
        self.set_deadline(within, self.run_out)
        # Not now: a room may be in the middle of its members.
        self.loop.call_soon(self.left)

    def left(self) -> None:
        """Be taken out of every room; nothing goes out to this connection any more."""

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
        """Abort, unless the answer has come and only was not read yet."""
        self.set_deadline(LAST_LOOK, self.abort)

    def abort(self) -> None:
        """End at once; nothing if the socket is gone already."""
        self.transport.abort()

    def set_deadline(
        self, within: float, then: Callable[..., object], *args: object
    ) -> None:
        """Call ``then`` after ``within`` seconds, in place of the deadline before."""
        self.drop_deadline()
        self.deadline = self.loop.call_later(within, then, *args)

    def drop_deadline(self) -> None:
        """Let the deadline pass unnoticed; nothing if there is none."""
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def send_data(self) -> None:
        """Send what the protocol has to say; after a goodbye it is the last."""
        state = self.protocol.state
        if state is not OPEN and (state is not CONNECTING or self.protocol.eof_sent):
            self.add_last_words()
            # A goodbye was said, or the peer hung up, broke the protocol, or was
            # refused: from here on it has no more time than this, whatever it does.
            self.leave()
        super().send_data()

    def add_last_words(self) -> None:
        """Add to ``protocol.writes`` what the library does not say at the end."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()
        self.drop_deadline()
        super().connection_lost(exc)
        self.transport = OVER
