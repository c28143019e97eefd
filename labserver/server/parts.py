"""The six parts of a server, and for each the naive answer in a few lines.

A stage replaces one part. Leaving a stage out (``--without``) puts the naive answer
back, so that two runs differ in one idea.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from websockets.http11 import Request

from labserver.contract.messages import Cursor, Event, Refreshed, event
from labserver.contract.tokens import ANONYMOUS, Identity
from labserver.contract.wire import Chunk
from labserver.errors import TooManyRooms
from labserver.server.connection import LabConnection, Outbox
from labserver.server.hub import Hub
from labserver.server.ledger import Ledger
from labserver.server.limits import TokenBucket
from labserver.server.metrics import Metrics
from labserver.server.places import Places
from labserver.server.presence import Attendance, Roster

BEGINS = "more rooms that nobody is in than one may publish to: wait, or join"
KEPT_LIMIT = 2**28  # bytes of messages that one process keeps, all rooms together
KEY_TTL = 300.0  # seconds in which a second publish with the same key is the first


class Application(Protocol):
    """What a message means."""

    async def receive(self, connection: LabConnection, text: str) -> None:
        """Serve one message, JSON text. Raises BadMessage for one that is wrong."""

    def closed(self, connection: LabConnection) -> None:
        """Forget a connection that is over."""


class Admission(Protocol):
    """Who gets a socket."""

    @property
    def places(self) -> Places:
        """How many there may be; the server counts them here."""

    def admit(self, connection: LabConnection, request: Request) -> Identity:
        """Return who asks. Raises Refused, which becomes an HTTP answer."""

    def opened(self, connection: LabConnection) -> None:
        """Watch over a connection that got its socket."""

    def released(self, connection: LabConnection) -> None:
        """Forget a connection that is over, or was never admitted."""

    def refresh(self, connection: LabConnection, token: str) -> Refreshed | None:
        """Extend a connection; None when there are no tokens here.

        A bad token ends the connection.
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
    outbox: Callable[[LabConnection, Metrics], Outbox]
    broker: Broker
    history: History


class AdmitAnyone:
    """Every handshake becomes a socket."""

    def __init__(self) -> None:
        self.places = Places()

    def admit(self, connection: LabConnection, request: Request) -> Identity:
        return ANONYMOUS

    def opened(self, connection: LabConnection) -> None:
        pass

    def released(self, connection: LabConnection) -> None:
        pass

    def refresh(self, connection: LabConnection, token: str) -> Refreshed | None:
        return None


class NoHeartbeat:
    """A dead peer stays until TCP gives up, which takes hours."""

    interval = None

    def watch(self, connection: LabConnection) -> None:
        pass

    def forget(self, connection: LabConnection) -> None:
        pass

    async def start(self, metrics: Metrics) -> None:
        pass

    async def stop(self) -> None:
        pass


class DirectOutbox:
    """Everything goes to the socket at once; what it does not take piles up."""

    __slots__ = ("write",)

    def __init__(self, connection: LabConnection, metrics: Metrics) -> None:
        self.write = connection.transport.write

    def deliver(self, chunk: Chunk) -> None:
        self.write(chunk.data)

    def control(self, frame: bytes) -> None:
        self.write(frame)

    def paused(self) -> None:
        pass

    def resumed(self) -> None:
        pass

    def waiting(self) -> int:
        return 0


class NoHistory:
    """Who was away has missed what was said."""

    limit = 0
    ttl = 0.0
    replay_limit = 0

    def missed(
        self, cursor: Cursor | None, position: Position
    ) -> Sequence[Event] | None:
        return None


class Log:
    """A room's numbering in this process, and the newest of its messages."""

    __slots__ = ("epoch", "expires", "keys", "kept", "seq", "told")

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(4)
        self.seq = 0
        self.kept: deque[tuple[float, Event]] = deque()
        # When a key of a user expires, and the seq that it has.
        self.keys: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()
        self.expires = 0.0
        self.told = False  # whether somebody was told a place in it, and may come back


class LocalBroker:
    """One process decides the order of its own rooms."""

    deaf = False
    logs_limit = 100_000
    keys_limit = 10_000
    kept_limit = KEPT_LIMIT

    def __init__(self) -> None:
        self.logs: OrderedDict[str, Log] = OrderedDict()
        self.kept = 0  # bytes

    async def start(self, hub: Hub, history: History, metrics: Metrics) -> None:
        self.hub, self.history, self.metrics = hub, history, metrics
        self.ledger = Ledger(history.limit, history.ttl)
        self.loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        self.logs.clear()

    def publish(
        self,
        room: str,
        tail: bytes,
        key: str | None = None,
        user: str = "",
        begins: TokenBucket | None = None,
    ) -> asyncio.Future[int]:
        now = time.monotonic()
        done: asyncio.Future[int] = self.loop.create_future()
        if begins is not None and room not in self.logs:
            if begins.level < 1.0:
                done.set_exception(TooManyRooms(BEGINS))
                return done
            begins.take(now)
        log = self._log(room)
        own = key and (user, key)  # nobody else can know it, or take it
        if own and (first := log.keys.get(own)) and first[0] > now:
            done.set_result(first[1])
            return done
        log.seq += 1
        self.metrics.published += 1
        message = event(room, log.seq, tail)
        if log.told and self.history.limit:
            self._keep(log, now, message)
            self.ledger.note(room, user, len(message.json), now)
            if self.kept > self.kept_limit:
                self._relieve(now)
        log.expires = max(log.expires, now + self.history.ttl)
        if own:
            log.keys[own] = (now + KEY_TTL, log.seq)
            log.expires = now + max(KEY_TTL, self.history.ttl)
            while len(log.keys) > self.keys_limit or _first(log.keys)[0] <= now:
                log.keys.popitem(last=False)
        self.hub.deliver(room, message)
        self._forget(now)
        done.set_result(log.seq)
        return done

    def _keep(self, log: Log, now: float, message: Event) -> None:
        if len(log.kept) == self.history.limit:
            self.kept -= len(log.kept.popleft()[1].json)
        log.kept.append((now, message))
        self.kept += len(message.json)

    def _relieve(self, now: float) -> None:
        """Forget an eighth of all that is kept, the heaviest users' rooms first."""
        goal = self.ledger.size * self.kept_limit * 7 / 8
        for room in self.ledger.cut(goal / self.kept, now):
            if (log := self.logs.get(room)) is not None:
                self._empty(log)

    def _empty(self, log: Log) -> None:
        self.kept -= sum(len(each.json) for _, each in log.kept)
        log.kept.clear()

    async def subscribe(self, room: str) -> None:
        self._log(room)

    def unsubscribe(self, room: str) -> None:
        self._may_return(room)
        self._forget(time.monotonic())

    async def read(self, room: str, after: int | None) -> Position:
        log = self._log(room)
        log.told = True
        self._may_return(room)
        if after is None or after >= log.seq:
            return Position(log.epoch, log.seq)
        oldest = time.monotonic() - self.history.ttl
        kept = [e for at, e in log.kept if at > oldest and e.first > after]
        return Position(log.epoch, log.seq, kept)

    async def here(
        self, room: str, mine: Roster, ttl: float, known: Roster | None
    ) -> Roster:
        return mine  # there is no other replica

    def _log(self, room: str) -> Log:
        log = self.logs.get(room)
        if log is None:
            log = self.logs[room] = Log()
        return log

    def _may_return(self, room: str) -> None:
        """Keep a numbering for those who were told a place in it, and have left."""
        if log := self.logs.get(room):
            log.expires = max(log.expires, time.monotonic() + self.history.ttl)

    def _forget(self, now: float) -> None:
        """Forget rooms that nobody is in and nobody can come back to.

        Two a call: as many go as can come, and no call is long.
        """
        for name in list(islice(self.logs, 2)):
            log = self.logs[name]
            if log.expires <= now:
                self._empty(log)
            if name in self.hub.rooms or (
                log.expires > now and len(self.logs) <= self.logs_limit
            ):
                self.logs.move_to_end(name)
            else:
                self._empty(log)
                self.ledger.forget(name)
                del self.logs[name]


def _first(keys: OrderedDict[tuple[str, str], tuple[float, int]]) -> tuple[float, int]:
    return next(iter(keys.values()))
