"""The six parts of a server, as protocols: the seams at which a stage replaces one."""

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

BEGINS = "more rooms that nobody is in than one may publish to: wait, or join"
KEPT_LIMIT = 2**28  # bytes of messages that one process keeps, all rooms together
KEY_TTL = 300.0  # seconds in which a second publish with the same key is the first


class Application(Protocol):
    """What a message means."""

    async def receive(self, member: Member, text: str) -> None:
        """Decode one message, JSON text, and handle it.

        Raises BadMessage for a message that is wrong.
        """

    async def handle(self, member: Member, message: ClientMessage) -> None:
        """Serve one message. Raises BadMessage for one that may not be served."""

    def closed(self, member: Member) -> None:
        """Forget a member that is over."""


class Admission(Protocol):
    """Who gets a socket."""

    @property
    def places(self) -> Places:
        """How many there may be; the server counts them here."""

    def admit(self, member: Member, request: Request) -> Identity:
        """Return who asks. Raises Refused, which becomes an HTTP answer."""

    def opened(self, member: Member) -> None:
        """Watch over a member that was admitted."""

    def released(self, member: Member) -> None:
        """Forget a member that is over, or was never admitted."""

    def refresh(self, member: Member, token: str) -> Refreshed | None:
        """Extend the time of a member; None when there are no tokens here.

        A bad token ends the member.
        """


class Heartbeat(Protocol):
    """How a dead peer is noticed."""

    @property
    def interval(self) -> float | None: ...

    def watch(self, connection: LabConnection) -> None: ...

    def forget(self, connection: LabConnection) -> None: ...

    async def start(self, metrics: Metrics) -> None: ...

    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Position:
    """Where a room stands, and what of it is still kept after some seq.

    ``before`` is the epoch that this one goes on from, and up to which seq both say
    the same. If it began from nothing, that seq is -1, which no cursor has: a client
    can send any name, also the empty one.
    """

    epoch: str
    seq: int
    kept: Sequence[Event] = ()
    before: tuple[str, int] = ("", -1)

    def continues(self, epoch: str, seq: int) -> bool:
        """Return whether what comes after a place in an epoch comes after it here."""
        epoch_before, base = self.before
        return epoch == self.epoch or (epoch == epoch_before and seq <= base)


class Broker(Protocol):
    """Decides a room's order and carries its messages to every replica's hub."""

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
        """Number a message, keep it, send it. The result is its seq.

        A room remembers what is said from when somebody was first told a place in it:
        nobody can come back to anything before. So a room costs next to nothing until
        somebody was in it, and is forgotten five minutes after its last message.

        Args:
            room: Name of the room.
            tail: What the publisher decides, from :func:`messages.body`.
            key: Names this message of this user in this room for ``KEY_TTL`` seconds,
                less while memory is short: a second one is not sent, and has the first
                one's seq.
            user: The publisher.
            begins: Gives a token for each room that the publisher begins; None for
                any number.

        The future fails with BrokerDown when that cannot be promised, with TooManyRooms
        when there is no such room, and no token.
        """

    async def subscribe(self, room: str) -> None:
        """Return when the hub gets every message published from now on."""

    def unsubscribe(self, room: str) -> None:
        """Note that a room has no local member any more."""

    async def read(self, room: str, after: int | None) -> Position:
        """Return where a room stands and what it keeps after a seq (None: nothing)."""

    async def here(
        self, room: str, mine: Roster, ttl: float, known: Roster | None
    ) -> Roster:
        """Note who of this replica is in a room; return who is of all of them.

        What is noted is forgotten after ``ttl`` seconds. A change is told to the hubs
        of the other replicas that listen to the room. Raises BrokerDown.
        """


class History(Protocol):
    """What a room remembers for those who come back.

    A broker keeps the newest ``limit`` messages of a room for ``ttl`` seconds, and
    need not read more than ``replay_limit`` bytes of them (0: any) for one replay.
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
        """Return every message after the cursor, or None if one of them is gone."""


@dataclass(frozen=True, slots=True)
class Lab:
    """What an application works with."""

    hub: Hub
    broker: Broker
    history: History
    admission: Admission
    metrics: Metrics
    attendance: Attendance


@dataclass(frozen=True, slots=True)
class Parts:
    """A server, taken apart."""

    application: Callable[[Lab], Application]
    admission: Admission
    heartbeat: Heartbeat
    outbox: Callable[[Reader, Metrics], Outbox]
    broker: Broker
    history: History
