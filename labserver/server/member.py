"""What a member of rooms is: the protocols that every door to them keeps.

A WebSocket connection is a member, and so is an HTTP request for as long as it lasts.
Hub, application, admission and presence see no more of either than is written here, so
that rooms, rights, limits and losses are the same through every door.
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
# Seconds between the end of a peer's time and the judgement. A process that stood still
# finds all deadlines past before it has read or written what it could meanwhile.
LAST_LOOK = 0.1


class Outbox(Protocol):
    """What stands between a room and a member's socket."""

    def deliver(self, chunk: Chunk) -> None:
        """Send a room's messages, or account for them."""

    def control(self, frame: bytes) -> None:
        """Send an answer, which is never dropped."""

    def paused(self) -> None:
        """Note that the socket takes no more."""

    def resumed(self) -> None:
        """Note that the socket has taken everything."""

    def waiting(self) -> int:
        """Return the bytes that wait in the application."""


class Shut:
    """The outbox of a member that is ending: nothing more goes out."""

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
    """A client that may be in rooms, whichever door it came through."""

    # Who it is.
    name: str
    address: str  # of the client, as far as is known
    identity: Identity
    place: Place  # of its socket
    expiry: asyncio.TimerHandle | None  # of its token, kept by the admission

    # What it gets.
    variant: Variant
    outbox: Outbox
    paused: bool  # whether its socket takes no more
    rooms: set[str]  # kept by the hub
    in_flight: int  # publishes of it that wait for the broker

    # How it ends.
    loop: asyncio.AbstractEventLoop
    ending: Close | None  # why this side ends it

    @property
    def gone(self) -> bool:
        """Whether nothing goes out to it any more."""

    def reply(self, message: Struct) -> None:
        """Send an answer to this member only."""

    def returned(self) -> None:
        """Do not count a join that takes the member back to where it was."""

    def end(self, close: Close, within: float = GOODBYE_TIMEOUT) -> None:
        """Say goodbye, and abort unless the peer takes it ``within`` seconds.

        Only the first call counts.
        """

    def cut(self, close: Close) -> None:
        """End at once, whatever waits in the buffer."""


class Sink(Protocol):
    """What an outbox writes to: a transport, or the body of a response."""

    def write(self, data: bytes) -> None: ...

    def get_write_buffer_size(self) -> int: ...

    def get_extra_info(self, name: str) -> Any: ...


class Reader(Member, Protocol):
    """A member to which an outbox writes, for longer than one answer."""

    @property
    def transport(self) -> Sink: ...
