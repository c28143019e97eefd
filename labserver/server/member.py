"""The member of a room, as protocols that WebSocket connections and HTTP requests keep.

A WebSocket connection is a member, and so is an HTTP request while it lasts. The hub,
the application, the admission and presence use only what these protocols have, so that
rooms, rights, limits and losses are the same for both.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from msgspec import Struct

from labserver.contract.closing import Close
from labserver.contract.tokens import Identity
from labserver.contract.wire import Chunk, Variant
from labserver.server.places import Place

GOODBYE_TIMEOUT = 2.0  # seconds that a peer has to answer a goodbye
# Seconds between a peer's deadline and the decision to end it. A process that stalled
# finds all deadlines passed before it has read its sockets and written to them.
LAST_LOOK = 0.1


class Outbox(Protocol):
    """Stands between a room and a member's socket."""

    def deliver(self, chunk: Chunk) -> None:
        """Send a room's messages, or keep or drop them by its policy."""

    def control(self, frame: bytes) -> None:
        """Send an answer, which is never dropped."""

    def paused(self) -> None:
        """Note that the socket is full."""

    def resumed(self) -> None:
        """Note that the socket has taken everything."""

    def waiting(self) -> int:
        """Return the bytes that wait for the socket in this process."""


class Shut:
    """The outbox of a member that is ending: it sends nothing."""

    def deliver(self, chunk: Chunk) -> None:
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


class Member(Protocol):
    """A client that may be in rooms, by WebSocket or HTTP."""

    # Identity
    name: str
    address: str  # the client's address, as far as is known
    identity: Identity
    place: Place  # the place of its socket
    expiry: asyncio.TimerHandle | None  # timer of its token, set by the admission

    # Messages
    variant: Variant
    outbox: Outbox
    paused: bool  # whether its socket is full
    rooms: set[str]  # set by the hub
    in_flight: int  # its publishes that wait for the broker

    # End
    loop: asyncio.AbstractEventLoop
    ending: Close | None  # why the server ends it

    @property
    def gone(self) -> bool:
        """Whether nothing is sent to it any more."""

    def reply(self, message: Struct) -> None:
        """Send an answer to this member only."""

    def returned(self) -> None:
        """Do not count a join of a room in which the member was before."""

    def end(self, close: Close, within: float = GOODBYE_TIMEOUT) -> None:
        """Say goodbye, and abort unless the peer takes it ``within`` seconds.

        Only the first call has an effect.
        """

    def cut(self, close: Close) -> None:
        """End at once, and discard the buffer."""


class Sink(Protocol):
    """The destination of an outbox: a transport, or the body of a response."""

    def write(self, data: bytes) -> None: ...

    def get_write_buffer_size(self) -> int: ...

    def get_extra_info(self, name: str) -> Any: ...


class Reader(Member, Protocol):
    """A member that reads more than one answer, so that an outbox writes to it."""

    @property
    def transport(self) -> Sink: ...

    def taken(self) -> int:
        """Return a number that grows when the peer takes bytes."""
