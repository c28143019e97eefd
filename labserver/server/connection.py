"""One client's WebSocket connection, from its handshake to its end.

It is a subclass of the ``websockets`` connection, in three layers. How it ends is in
:mod:`~labserver.server.ending`, how it reads in :mod:`~labserver.server.reading`. This
module has the client's identity, its answers, and the signs that it lives and reads.

The server is told of five moments: the socket is open (:meth:`Host.arrived`), it has
sent a request (:meth:`Host.requested`), a message waits and no other is being served
(:meth:`Host.heard`), nothing is sent any more (:meth:`Host.left`), the socket is closed
(:meth:`Host.lost`).
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from typing import Protocol

from msgspec import Struct
from websockets.http11 import Request

from labserver.contract import messages, wire
from labserver.contract.tokens import ANONYMOUS
from labserver.server.places import Place
from labserver.server.proxies import UNKNOWN, normal
from labserver.server.reading import Pace, PacedConnection
from labserver.server.sockets import taken, untaken
from labserver.server.upgrade import LabProtocol

PING = bytes((0x89, 0))  # FIN, opcode 9, no payload


class Host(Pace, Protocol):
    """What a connection needs from its server."""

    def arrived(self, connection: LabConnection) -> Place:
        """Note that a socket is open; return its place."""

    def requested(self, connection: LabConnection, request: Request) -> None:
        """Answer the request, and serve the client if it is admitted."""

    def heard(self, connection: LabConnection) -> None:
        """Serve the messages that wait: the first one has arrived."""

    def left(self, connection: LabConnection) -> None:
        """Remove a connection from every room: nothing is sent to it any more."""

    def lost(self, connection: LabConnection) -> None:
        """Note that a socket is closed."""


class LabConnection(PacedConnection):
    """A connection of the lab: a member of rooms that is pinged.

    Args:
        host: The server of the connection.
        protocol: Its protocol.
        write_limit: Bytes that may wait unsent until writing pauses.

    """

    # The library's attributes fill the 30 keys that instances may share. With one more,
    # each idle connection would need a dictionary of its own, of 2 KB.
    __slots__ = (
        # Identity
        "address",
        "expiry",
        "identity",
        "name",
        "place",
        # Messages
        "in_flight",
        "rooms",
        "variant",
        # Signs of life, with ``seen`` and ``latency``
        "ahead",
        "before",
        "pinged",
    )

    host: Host

    def __init__(self, host: Host, protocol: LabProtocol, write_limit: int) -> None:
        super().__init__(host, protocol, write_limit)
        self.name = secrets.token_hex(6)
        self.address = UNKNOWN  # the client's address, as far as is known
        self.identity = ANONYMOUS
        self.place: Place
        self.expiry: asyncio.TimerHandle | None = None
        self.variant = wire.PLAIN
        self.rooms: set[str] = set()  # set by the hub
        self.in_flight = 0  # publishes that wait for the broker
        self.pinged = 0.0  # time of the last ping; 0 if none waits for an answer
        self.ahead = 0  # bytes that the peer had not taken at that time
        self.before = 0  # and a count of those that it had

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.recv_messages.pause = _nothing  # feed() pauses reading
        self.recv_messages.resume = self.feed
        if peer := self.remote_address:  # a peer that is gone already has no address
            self.address = normal(str(peer[0]))
        self.place = self.host.arrived(self)
        # The time counts from the accept: the TLS handshake has used some of it.
        left = self.seen + self.host.patience - time.monotonic()
        self.set_deadline(max(0.0, left), self.run_out)

    def requested(self, request: Request) -> None:
        self.host.requested(self, request)

    def heard(self) -> None:
        self.host.heard(self)

    def left(self) -> None:
        self.host.left(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.recv_messages.resume = _nothing  # a reference cycle would be freed late
        super().connection_lost(exc)
        self.host.lost(self)

    # Answers

    def welcome(self, hello: Struct) -> None:
        """Send the first message, in one write with the answer to the handshake."""
        frame = wire.frame(self.variant, messages.encode(hello))
        self.transport.write(b"".join((*self.protocol.data_to_send(), frame)))

    def reply(self, message: Struct) -> None:
        """Send an answer to this client only."""
        self.outbox.control(wire.frame(self.variant, messages.encode(message)))

    def returned(self) -> None:
        """Do not count a join of a room in which the client was before.

        After a break a client joins all its rooms at once; that is no flood. It cannot
        join more rooms than the limit, and to join again it must leave, which counts.
        """
        if self.bucket is not None:
            self.bucket.give_back()

    # Signs that it lives and reads

    def send_ping(self) -> None:
        """Send a ping, without waiting for anything."""
        self.pinged = time.monotonic()
        self.before = self.taken()
        # A ping is not sent to a full socket: there, each byte that is taken counts.
        self.ahead = sys.maxsize if self.paused else untaken(self.transport)
        if not self.paused:
            self.outbox.control(PING)

    def acknowledge_pings(self, data: bytes) -> None:
        if self.pinged:
            self.latency = self.seen - self.pinged
            self.pinged = 0.0

    def reads(self) -> bool:
        """Return whether the peer is still taking what it was sent before the ping.

        Once it has taken that, it must answer: the kernel of a peer takes bytes even if
        its program is frozen.
        """
        return 0 < self.taken() - self.before < self.ahead

    def taken(self) -> int:
        return taken(self.transport)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.outbox.paused()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.seen = time.monotonic()  # the peer reads, so it lives
        self.outbox.resumed()


def _nothing() -> None:
    pass
