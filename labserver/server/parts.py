"""The six parts of a server, as protocols. A stage replaces one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from websockets.http11 import Request

from labserver.contract.messages import ClientMessage, Cursor, Event, Refreshed
from labserver.contract.tokens import Identity
from labserver.server.connection import LabConnection
from labserver.server.hub import Hub
from labserver.server.limits import TokenBucket
from labserver.server.member import Member, Outbox, Reader
from labserver.server.metrics import Metrics
from labserver.server.places import Places
from labserver.server.presence import Attendance, Roster

BEGINS = "too many messages to rooms without members: wait, or join the room"
KEPT_LIMIT = 2**28  # bytes of messages that one process keeps, all rooms together
KEY_TTL = 300.0  # seconds in which a second publish with the same key is a repetition


class Application(Protocol):
    """Serves the messages of clients."""

    async def receive(self, member: Member, text: str) -> None:
        """Decode one message, JSON text, and handle it.

        Raises:
            BadMessage: It cannot be decoded, or may not be served.

        """

    async def handle(self, member: Member, message: ClientMessage) -> None:
        """Serve one message.

        Raises:
            BadMessage: It may not be served.

        """

    def closed(self, member: Member) -> None:
        """Forget a member that has ended."""


class Admission(Protocol):
    """Decides which clients get a socket."""

    @property
    def places(self) -> Places:
        """The places for sockets; the server counts its sockets there."""

    def admit(self, member: Member, request: Request) -> Identity:
        """Return the identity of a client.

        Raises:
            Refused: The client is not admitted; this becomes an HTTP response.

        """

    def opened(self, member: Member) -> None:
        """Begin to watch a member that was admitted."""

    def released(self, member: Member) -> None:
        """Forget a member that has ended, or was never admitted."""

    def refresh(self, member: Member, token: str) -> Refreshed | None:
        """Give a member a new token. A bad token ends the member.

        Returns:
            The answer to the client. None if the token was bad, or if there are no
            tokens here.

        """


class Heartbeat(Protocol):
    """Notices dead peers."""

    @property
    def interval(self) -> float | None:
        """Seconds between two pings to the same peer; None without pings."""

    def watch(self, connection: LabConnection) -> None:
        """Begin to ping a connection."""

    def forget(self, connection: LabConnection) -> None:
        """Stop pinging a connection."""

    async def start(self, metrics: Metrics) -> None: ...

    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Position:
    """The position of a room, with messages that it still keeps.

    Attributes:
        epoch: Name of its numbering.
        seq: Number of its newest message.
        kept: Messages after the seq that was asked for, in order. Perhaps earlier ones
            come before them, that another client asked for at the same moment.
        before: The epoch that this one continues, and the last seq that both share. If
            there is none, that seq is -1. No cursor has this seq, while a client may
            send any epoch, also an empty one.

    """

    epoch: str
    seq: int
    kept: Sequence[Event] = ()
    before: tuple[str, int] = ("", -1)

    def continues(self, epoch: str, seq: int) -> bool:
        """Return whether a cursor of an epoch is also valid in this epoch."""
        epoch_before, base = self.before
        return epoch == self.epoch or (epoch == epoch_before and seq <= base)

    def start(self, cursor: Cursor | None) -> int | None:
        """Return the seq after which all is new to a client whose epoch is gone.

        None if there is no cursor, or if it is still valid here.
        """
        if cursor is None or self.continues(cursor.epoch, cursor.seq):
            return None
        epoch_before, base = self.before
        return base if cursor.epoch == epoch_before else 0


class Broker(Protocol):
    """Decides the order of a room's messages, and brings them to all replicas' hubs."""

    @property
    def deaf(self) -> bool:
        """Whether messages of other replicas may not be arriving."""

    async def start(self, hub: Hub, history: History, metrics: Metrics) -> None: ...

    async def stop(self) -> None: ...

    def publish(
        self,
        room: str,
        tail: bytes,
        key: str | None = None,
        user: str = "",
        begins: TokenBucket | None = None,
    ) -> asyncio.Future[int]:
        """Number a message, keep it and send it.

        A room keeps messages once a client was told a position in it: before that, no
        client can come back. So a room in which nobody has been costs very little, and
        is forgotten five minutes after its last message.

        Args:
            room: Name of the room.
            tail: The end of the message's JSON, from :func:`messages.body`.
            key: Idempotency key. For ``KEY_TTL`` seconds (less while memory is short) a
                second message of this user in this room with the same key is not sent,
                and gets the seq of the first.
            user: The publisher.
            begins: Bucket that pays a token for each room that the publisher begins;
                None for any number of rooms.

        Returns:
            A future with the seq. It fails with BrokerDown if the message may not have
            been stored, and with TooManyRooms if the room does not exist and the bucket
            has no token.

        """

    async def subscribe(self, room: str) -> None:
        """Return when the hub gets every message that is published from now on.

        Raises:
            BrokerDown: That cannot be promised.

        """

    def unsubscribe(self, room: str) -> None:
        """Note that a room has no local member any more."""

    async def read(self, room: str, after: int | None) -> Position:
        """Return a room's position, with the messages after a seq that it still keeps.

        Args:
            room: Name of the room.
            after: Messages after this seq are wanted; None for none.

        Raises:
            BrokerDown: The position cannot be read.

        """

    async def here(
        self, room: str, mine: Roster, ttl: float, known: Roster | None
    ) -> Roster:
        """Store this replica's members of a room; return those of all replicas.

        The hubs of other replicas that are subscribed to the room hear of a change.

        Args:
            room: Name of the room.
            mine: The members on this replica.
            ttl: Seconds after which this is forgotten.
            known: The last roster of the room that this replica knows.

        Raises:
            BrokerDown: The broker does not answer.

        """


class History(Protocol):
    """How many messages a room keeps for clients that come back.

    A broker keeps the newest ``limit`` messages of a room for ``ttl`` seconds. For one
    replay it need not read more than ``replay_limit`` bytes (0: no limit).
    """

    @property
    def limit(self) -> int: ...

    @property
    def ttl(self) -> float: ...

    @property
    def replay_limit(self) -> int: ...

    def missed(
        self, cursor: Cursor | None, position: Position
    ) -> Sequence[Event] | None:
        """Return every message after the cursor; None if one of them is missing."""


@dataclass(frozen=True, slots=True)
class Lab:
    """What a server gives to its application."""

    hub: Hub
    broker: Broker
    history: History
    admission: Admission
    metrics: Metrics
    attendance: Attendance


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that a server is made of."""

    application: Callable[[Lab], Application]
    admission: Admission
    heartbeat: Heartbeat
    outbox: Callable[[Reader, Metrics], Outbox]
    broker: Broker
    history: History
