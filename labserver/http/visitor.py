"""A client without a WebSocket: one HTTP request while it lasts.

It is a :class:`~labserver.server.member.Member`, as a WebSocket connection is. So
rooms, rights, limits and losses are the same for both, and there is one way to send.
"""

from __future__ import annotations

import asyncio
import secrets

from msgspec import Struct

from labserver.contract.closing import NORMAL, Close
from labserver.contract.messages import Ack, Error
from labserver.contract.tokens import ANONYMOUS
from labserver.contract.wire import PLAIN, Variant
from labserver.server.member import GOODBYE_TIMEOUT, SHUT, Outbox
from labserver.server.places import Place
from labserver.server.sockets import abort


class Visitor:
    """One request.

    Args:
        address: The client's address.
        socket: The transport of its response. Several requests may follow each other
            on it, so it is aborted only if the response hangs.

    """

    variant: Variant = PLAIN

    def __init__(self, address: str, socket: asyncio.Transport) -> None:
        self.loop = asyncio.get_running_loop()
        self.name = secrets.token_hex(6)
        self.address = address
        self.socket = socket
        self.identity = ANONYMOUS
        self.outbox: Outbox = SHUT
        self.rooms: set[str] = set()  # set by the hub
        self.paused = False
        self.in_flight = 0  # publishes that wait for the broker
        self.ending: Close | None = None  # why the server ends it
        self.expiry: asyncio.TimerHandle | None = None
        self.place: Place  # the place of its socket
        self.deadline: asyncio.TimerHandle | None = None  # deadline of a goodbye

    @property
    def gone(self) -> bool:
        """Whether nothing is sent to it any more."""
        return self.ending is not None

    def reply(self, message: Struct) -> None:
        """Handle an answer. Here it is ignored."""

    def returned(self) -> None:
        """Do nothing: joins over HTTP are not counted."""

    def ended(self) -> None:
        """Finish the response; :attr:`ending` says why."""

    def end(self, close: Close, within: float = GOODBYE_TIMEOUT) -> None:
        """Finish the response; abort unless the peer takes it ``within`` seconds."""
        if self.ending is None:
            self.ending = close
            self.outbox = SHUT
            self.ended()
            self.deadline = self.loop.call_later(within, abort, self.socket)

    def cut(self, close: Close) -> None:
        """End at once, and discard the buffer."""
        self.end(close)
        self.ending = close
        abort(self.socket)

    def left(self) -> None:
        """Note that the response has ended: its socket may serve the next request."""
        self.ending = self.ending or NORMAL
        self.outbox = SHUT
        if self.deadline is not None:
            self.deadline.cancel()


class Publisher(Visitor):
    """A POST: it waits for the answer to its one message."""

    def __init__(self, address: str, socket: asyncio.Transport) -> None:
        super().__init__(address, socket)
        self.answer: asyncio.Future[Ack | Error] = self.loop.create_future()

    def reply(self, message: Struct) -> None:
        if isinstance(message, Ack | Error) and not self.answer.done():
            self.answer.set_result(message)
