"""One client's WebSocket connection, from its handshake to its end.

A subclass of the ``websockets`` connection, in three layers: how it ends is in
:mod:`~labserver.server.ending`, how it reads in :mod:`~labserver.server.reading`. Here
is who the client is, what it is sent, and how life and pressure are seen.

The server hears of three moments: the socket is there (:meth:`Host.arrived`), nothing
goes out any more (:meth:`Host.left`), the socket is closed (:meth:`Host.lost`).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any, Protocol

from msgspec import Struct

from labserver.contract import messages, wire
from labserver.contract.tokens import ANONYMOUS
from labserver.server.places import Place
from labserver.server.proxies import UNKNOWN, normal
from labserver.server.reading import Pace, PacedConnection

PING = bytes((0x89, 0))  # FIN, opcode 9, no payload


class Host(Pace, Protocol):
    """What a connection tells its server, and asks of it."""

    def arrived(self, connection: LabConnection) -> Place:
        """Note that a socket is open; return its place."""

    def left(self, connection: LabConnection) -> None:
        """Take a connection out of every room: nothing goes out to it any more."""

    def lost(self, connection: LabConnection) -> None:
        """Note that a socket is closed."""


class LabConnection(PacedConnection):
    """A connection of the lab: a member of rooms that is pinged.

    Args:
        host: The server that it is a connection of.

    """

    # The library's own attributes fill the 30 keys that instances may share; one more
    # would cost each idle connection 2 KB for a dictionary of its own.
    __slots__ = (
        # Who it is.
        "address",
        "expiry",
        "identity",
        "name",
        "place",
        # What it gets.
        "in_flight",
        "rooms",
        "variant",
        # Whether it lives; with ``seen`` and ``latency``.
        "pinged",
        "unsent",
    )

    host: Host

    def __init__(self, host: Host, *args: Any, **kwargs: Any) -> None:
        super().__init__(host, *args, **kwargs)
        self.name = secrets.token_hex(6)
        self.address = UNKNOWN  # of the client, as far as is known
        self.identity = ANONYMOUS
        self.place: Place
        self.expiry: asyncio.TimerHandle | None = None
        self.variant = wire.PLAIN
        self.rooms: set[str] = set()  # kept by the hub
        self.in_flight = 0  # publishes that wait for the broker
        self.pinged = 0.0  # the last ping; 0 when none waits for an answer
        self.unsent = 0  # bytes in the socket's buffer at that time

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.recv_messages.pause = _nothing  # feed() sees to it
        self.recv_messages.resume = self.feed
        if peer := self.remote_address:  # one that is gone already has no name
            self.address = normal(str(peer[0]))
        self.place = self.host.arrived(self)
        # It was made when the socket was accepted: TLS has had of this time.
        left = self.seen + self.host.patience - time.monotonic()
        self.set_deadline(max(0.0, left), self.run_out)

    def left(self) -> None:
        self.host.left(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.recv_messages.resume = _nothing  # what refers to itself is freed late
        super().connection_lost(exc)
        self.host.lost(self)

    # What it is sent

    def reply(self, message: Struct) -> None:
        """Send an answer to this client only."""
        self.outbox.control(wire.frame(self.variant, messages.encode(message)))

    def returned(self) -> None:
        """Do not count a join that goes on where the client was.

        After a break a client enters all its rooms at once, and is no flooder. It
        cannot enter more than it may be in; to do it again it has to leave.
        """
        if self.bucket is not None:
            self.bucket.give_back()

    # Whether it lives, and reads

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

    def pause_writing(self) -> None:
        super().pause_writing()
        self.outbox.paused()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.seen = time.monotonic()  # it reads: it lives
        self.outbox.resumed()


def _nothing() -> None:
    pass
