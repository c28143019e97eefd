"""Users that join a room and listen. They are abstract: scenarios name concrete ones.

A user is one connection in one greenlet. It connects inside its task, never in
``on_start``, where an error would end the user for good. When it loses its connection,
it reconnects like :class:`labserver.client.Client`: with full jitter and its cursor,
and only if the close code allows it. A lost connection is a failure of the run, unless
a fault was injected or the loss is the scenario's subject.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import gevent
import msgspec
from locust import User, task
from locust.env import Environment
from websockets.frames import Frame

import labserver.load.run.page  # noqa: F401 (it listens to Locust's events)
from labserver.client import Backoff
from labserver.contract.closing import Return, after_status, comes_back
from labserver.contract.messages import Error, Gap, Hello, Joined
from labserver.load.addresses import normal
from labserver.load.dialects import (
    Delivery,
    Dialect,
    Heard,
    Other,
    Reply,
    Stamp,
    named,
)
from labserver.load.figures.audit import Audit
from labserver.load.figures.record import Record
from labserver.load.figures.trust import MOSTLY
from labserver.load.run.arguments import USERS_LIMIT
from labserver.load.run.clock import CLOCK
from labserver.load.run.hooks import options_of
from labserver.load.run.life import RUN
from labserver.load.run.options import urls, user_name
from labserver.load.run.rows import MESSAGE
from labserver.load.websocket import Closed, Refused, WebSocket
from labserver.processes.reach import NotThisMachine

ANSWER_TIMEOUT = 5.0  # seconds
# Locust's bookkeeping of an event costs more than everything else for a message. So
# Locust only gets one event in EVENT_EVERY, and the name of the row says so. It is a
# different one for each member: else a short stall would be in no sample, or in all.
# The lab's own figures count every message.
EVENT_EVERY = 100
HOMES = 100  # connections of a user that are remembered
KNOWN_TO = 10  # a latency is known if a 10th of it at most is not


# What a dialect raises for bytes that it cannot read. msgspec's are ValueErrors.
UNREADABLE = (ValueError, KeyError, TypeError, IndexError, RecursionError)
turns: defaultdict[type, Iterator[int]] = defaultdict(itertools.count)


class WebSocketUser(User):
    """One connection in one room, with an audit of its messages."""

    abstract = True

    scenario: ClassVar[str]
    label: ClassVar[str] = "subscribers"
    by_design: ClassVar[bool] = False  # late or lost messages are its subject
    across: ClassVar[bool] = False  # whether to spread over all servers
    stays: ClassVar[bool] = True  # whether publishers wait until it has joined
    publishes: ClassVar[bool] = False
    of_lab: ClassVar[bool] = False  # whether it makes no sense in another dialect
    receive_buffer: ClassVar[int] = 0  # SO_RCVBUF in bytes; 0: the kernel's choice
    count = itertools.count()  # of all users in this process
    came = False  # whether it has tried to connect
    stall: tuple[int, int] | None = None  # of this process, around the newest read

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.number = next(WebSocketUser.count)
        self.name = user_name()
        self.crowd = f"{self.scenario}/{self.label}"
        self.room = RUN.room(self.scenario)
        self.record = RUN.record
        self.record.users[type(self).__name__] += 1
        self.record.published[self.scenario] += 0
        self.latency = self.record.histogram(self.crowd)
        self.everybody = self.record.slowest(self.scenario)
        if self.by_design:
            self.record.by_design.add(self.crowd)
        self.socket: WebSocket  # the newest one
        self.connected = False
        self.audit = Audit(self.room)
        self.replica = ""
        # Since when it has been on which replica; None: on none. Monotonic ns.
        self.homes: deque[tuple[int, str | None]] = deque(maxlen=HOMES)
        self.dialect_class = named(options_of(environment).dialect)
        self.dialect: Dialect  # of the newest connection
        self.heartbeat: float | None = None  # seconds between the server's pings
        self.joined = False
        self.born = time.monotonic_ns()
        self.connected_at = 0
        self.lost_at = 0  # when its last connection ended, monotonic ns
        self.backoff = self.new_backoff()
        # The n-th user of each class goes to the n-th server, in every process.
        offset = getattr(environment.runner, "worker_index", 0)
        self.servers = urls(options_of(environment)) if self.across else []
        self.turn = next(turns[type(self)]) + max(0, offset)
        self.received = 0
        self.sampled = random.randrange(EVENT_EVERY)  # next message that Locust gets
        self.accounted = False
        RUN.members.add(self)

    def url(self) -> str:
        """Return the URL to connect to."""
        if self.servers:
            return self.servers[self.turn % len(self.servers)]
        return normal(self.host or "")

    def new_backoff(self) -> Backoff:
        """Return the back-off; its first delay is short, because a run is short."""
        return Backoff(first=0.1, cap=5.0, stable=2.0)

    # Life

    @task
    def live(self) -> None:
        """Attend once; Locust repeats it. Override ``attend``, not this method."""
        self.attend()

    def attend(self) -> None:
        """Live through one connection, from the handshake to its end."""
        if RUN.drained.is_set() or (RUN.draining and not self.connected_at):
            gevent.sleep(1)
            return
        if len(RUN.members) > USERS_LIMIT:
            gevent.sleep(1)
            return
        if not self.came:
            self.came = True
            RUN.settling.turn()
        started = time.perf_counter()
        try:
            self.connect()
        except NotThisMachine as exc:
            self.fail("connect", started, exc)
            self.stay_away()
        except OSError as exc:
            self.not_connected(started, exc)
        else:
            started = time.perf_counter()
            try:
                self.converse()
            except OSError as exc:
                self.hang_up()
                self.lost_connection(started, exc)
        finally:
            self.hang_up()

    def connect(self) -> None:
        """Open a socket, read the hello, join the room."""
        started = time.perf_counter()
        self.dialect = self.dialect_class(self.name)
        self.socket = WebSocket(
            self.dialect.address(self.url()),
            self.dialect.headers(),
            self.receive_buffer,
            self.dialect.subprotocols,
        )
        self.connected = True
        self.socket.frames.control = self.control
        try:
            self.say(self.dialect.opened())
            if self.dialect.greets:
                hello = self.await_message(Hello)
                self.replica, self.heartbeat = hello.replica, hello.heartbeat
            self.fire("connect", started)
            started = time.perf_counter()
            cursor = self.audit.cursor() if self.dialect.numbered else None
            self.say(self.dialect.enter(self.room, cursor))
            # Missed messages come after the answer; nothing comes before it.
            self.await_message(Joined)
            self.fire("join", started)
            if self.dialect.keepalive:
                gevent.spawn(self.beat, *self.dialect.keepalive)
            self.joined = True
            self.connected_at = time.monotonic_ns()
            self.homes.append((self.connected_at, self.replica))
            if self.lost_at:
                self.came_back((self.connected_at - self.lost_at) // 1000)
                self.lost_at = 0
        except BaseException:
            self.hang_up()
            raise

    def await_message(self, kind: type) -> Any:
        """Handle messages until one of type ``kind`` comes; return it.

        Raises:
            ConnectionError: None came in time, or an error came.

        """
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while (left := deadline - time.monotonic()) > 0:
            found = None
            for data in self.socket.receive(left):
                for message in self.handle(data):
                    if isinstance(message, kind):
                        found = message
                    elif isinstance(message, Error):
                        raise ConnectionError(f"{message.code}: {message.detail}")
            if found is not None:
                return found
        raise ConnectionError(f"no {kind.__name__.lower()} within {ANSWER_TIMEOUT:g} s")

    def say(self, messages: Iterable[bytes]) -> None:
        for message in messages:
            self.socket.send(message)

    def beat(self, seconds: float, message: bytes) -> None:
        """Send a message again and again, so that the server keeps the connection."""
        socket = self.socket
        while socket is self.socket and self.connected:
            gevent.sleep(seconds)
            with contextlib.suppress(OSError):
                socket.send(message)

    def converse(self) -> None:
        """Read until the connection ends."""
        self.socket.listen(self.took)

    def hang_up(self) -> None:
        self.joined = False
        if self.connected:
            self.connected = False
            self.socket.close()

    def excused(self) -> bool:
        """Return whether a lost connection, or a failed attempt, is no failure now."""
        return self.by_design or RUN.draining or bool(RUN.faults)

    def not_connected(self, started: float, exc: OSError) -> None:
        """Decide whether a failed attempt counts, and wait before the next one."""
        # Without a status the server hung up, or is not there; it may come back.
        status = exc.status if isinstance(exc, Refused) else 0
        passes = not status or after_status(status) is Return.SOON
        if not (self.excused() or (status and passes and self.lost_at)):
            self.fail("connect", started, exc)
        if not passes:
            self.stay_away()
            return
        self.turn += 1  # perhaps the next server answers
        asked = exc.retry_after if isinstance(exc, Refused) else 0.0
        # All clients get the same Retry-After, so jitter is added to it.
        gevent.sleep(asked + self.backoff.next())

    def lost_connection(self, started: float, exc: OSError) -> None:
        """Decide whether the end of a connection counts, and whether to reconnect."""
        self.lost_at = time.monotonic_ns()
        self.homes.append((self.lost_at, None))
        self.backoff.lasted((self.lost_at - self.connected_at) / 1e9)
        code = exc.code if isinstance(exc, Closed) else None
        if self.by_design:
            self.outcome("cut off without a close frame" if code == 1006 else str(exc))
        elif not self.excused():
            self.fail("connection", started, exc)
        match comes_back(None if code == 1006 else code):
            case Return.NEVER | Return.NEW_TOKEN:
                self.stay_away()  # the answer would be the same
            case Return.LATER:
                gevent.sleep(self.backoff.next() + self.backoff.first)
            case Return.SOON:
                gevent.sleep(self.backoff.next())

    def came_back(self, microseconds: int) -> None:
        """Called when the user has rejoined, after so many microseconds."""

    def not_back(self) -> None:
        """Called at the end of the run if the user has not rejoined."""
        if not self.by_design:
            self.problem(f"{self.scenario}: a user had not reconnected at the end")
            self.record.ended(self.crowd, self.place(), self.audit.last())

    def stay_away(self) -> None:
        """Wait for the end of the run."""
        while not RUN.draining:
            gevent.sleep(1)

    def control(self, frame: Frame) -> None:
        """Called for each control frame; a ping has been answered already."""

    # Messages

    def read(self, timeout: float | None, size: int = 65536) -> None:
        """Read once, up to ``size`` bytes within ``timeout`` s; handle messages."""
        if messages := self.socket.receive(timeout, size):
            self.took(messages)

    def took(self, messages: list[bytes]) -> None:
        """Handle the messages of one read. This must not wait: see listen()."""
        socket = self.socket
        RUN.active = socket.arrived
        # The delay of a reader that is slow by design is not the generator's.
        if not self.by_design:
            if (
                len(messages) > 1
                or socket.lag is None
                or (messages and not socket.emptied)
            ):
                self.stall = RUN.stall(socket.before, socket.arrived)
            if self.stall is not None:
                self.took_late(messages, self.stall)
                return
            if socket.lag is not None:
                self.record.lag.record(socket.lag // 1000)
        for data in messages:
            self.handle(data)

    def took_late(self, messages: list[bytes], stall: tuple[int, int]) -> None:
        """Handle messages that may have arrived at any time of a stall."""
        socket = self.socket
        read = socket.arrived + (socket.lag or 0)
        waited = (read - max(socket.before, stall[0])) // 1000
        for number, data in enumerate(messages, 1):
            self.record.lag.record(waited)
            # The kernel knows when the newest one arrived.
            if number == len(messages) and socket.lag is not None and socket.emptied:
                self.stall = None
            self.handle(data)
        self.stall = None

    def handle(self, data: bytes) -> Sequence[Heard]:
        """Handle a message of the server; return what it says."""
        try:
            messages = tuple(self.dialect.read(data))
        except UNREADABLE:
            self.problem(f"{self.scenario}: an unreadable message")
            return ()
        for message in messages:
            if type(message) is Delivery:
                # A server without numbers is judged by the publisher's.
                if seq := message.seq or message.payload.number:
                    self.audit.message(seq)
                self.delivered(message, len(data))
            else:
                self.hears(message)
        return messages

    def hears(self, message: Heard) -> None:
        """Handle what is not a message of a load test."""
        match message:
            case Joined():
                self.entered(message)
            case Gap():
                self.audit.gap(msgspec.to_builtins(message))
            case Other(seq):
                if seq:  # somebody else's message, which is numbered, too
                    self.audit.message(seq)
            case Reply(data):
                self.socket.send(data)
            case _:
                self.answered(message)

    def entered(self, message: Joined) -> None:
        if self.dialect.numbered:
            self.audit.joined(msgspec.to_builtins(message))
            self.record.reached(self.place(), message.seq)
        elif self.audit.epoch is None and not RUN.settled.is_set():
            # No publisher has begun. Who comes later is judged from its first message.
            self.audit.joined({"epoch": "", "seq": 0})

    def delivered(self, message: Delivery, size: int) -> None:
        """Record the latency of a message. This is the hot path."""
        stamp, arrived = message.payload, self.socket.arrived + CLOCK.offset
        self.received += 1
        if self.stall is not None and self.is_unknown(stamp, self.stall):
            self.record.unmeasured[self.scenario] += 1
            self.everybody.unmeasured(stamp.due, stamp.number)
            return
        late, own = (arrived - stamp.due) // 1000, (stamp.sent - stamp.due) // 1000
        self.latency.record(late, own)
        # A number of 0 is of a visitor, whose rooms are small.
        if stamp.number and not stamp.number % self.everybody.step:
            self.everybody.arrived(stamp.due, stamp.number, late, own)
        if self.received > self.sampled:
            self.sampled = (self.received // EVENT_EVERY + 1) * EVENT_EVERY
            self.sampled += random.randrange(EVENT_EVERY)
            what = "message, late by the generator" if own > MOSTLY * late else MESSAGE
            self.fire(
                f"{what} (1 of {EVENT_EVERY})", milliseconds=late / 1000, size=size
            )

    def is_unknown(self, stamp: Stamp, stall: tuple[int, int]) -> bool:
        """Return whether a message may have arrived much earlier than it seems."""
        arrived, offset = self.socket.arrived, CLOCK.offset
        unknown = min(arrived, stall[1]) - max(stamp.sent - offset, stall[0])
        return unknown * KNOWN_TO > arrived + offset - stamp.due

    def answered(self, message: Any) -> None:
        if isinstance(message, Error):
            self.problem(f"{message.code}: {message.detail}")

    # Figures

    def fire(
        self,
        what: str,
        started: float | None = None,
        *,
        milliseconds: float | None = None,
        size: int = 0,
        exception: Exception | None = None,
    ) -> None:
        """Report to Locust; a send has response time None, as 0 would be a fast one."""
        if started is not None:
            milliseconds = (time.perf_counter() - started) * 1000
        self.environment.events.request.fire(
            request_type="WS",
            name=f"{self.scenario}: {what}",
            response_time=milliseconds,
            response_length=size,
            exception=exception,
            context={},
        )

    def fail(self, what: str, started: float, exc: Exception) -> None:
        self.fire(what, started, exception=exc)
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        self.problem(f"{self.scenario} {what}: {why}")

    def problem(self, sentence: str) -> None:
        self.record.problems[sentence] += 1

    def outcome(self, what: str) -> None:
        """Count what happened to a user that is slow by design."""
        self.record.outcomes.setdefault(self.crowd, Counter())[what] += 1

    def side(self, message: Delivery) -> str:
        """Return where this user was, seen from the publisher, when a message was due.

        Who has reconnected gets messages that were due before. Their latency belongs to
        the replica that this user was on then, or to the time between two.
        """
        home = self.home(message.payload.due - CLOCK.offset)
        if home is None:
            return "cut off"
        return "same replica" if message.payload.replica == home else "other replica"

    def home(self, when: int) -> str | None:
        """Return this user's replica at a time in monotonic ns; None if cut off."""
        for since, replica in reversed(self.homes):
            if since <= when:
                return replica
        return self.homes[0][1] if self.homes else self.replica

    def outage(self, microseconds: int) -> None:
        """Record how long this user was without a connection."""
        own = self.record.own(self.scenario)
        own.counts["came back"] += 1
        own.histogram("outage").record(microseconds)

    def place(self) -> str:
        """Return the name of the numbering that seqs belong to: room and epoch."""
        return f"{self.room} {self.audit.epoch}"

    def pending(self) -> bool:
        # A user without a connection must reconnect, to get what it missed. A connected
        # user waits for every message that it knows to be published, also from a slow
        # server.
        if self.by_design:
            return False
        top = self.record.tops.get(self.place(), 0)
        return bool(self.lost_at) or (self.joined and self.audit.last() < top)

    def so_far(self, record: Record) -> None:
        """Add this user's figures up to now to another record."""
        if not self.accounted:
            record.tally(self.crowd).__iadd__(self.audit.tally())

    def account(self, final: bool) -> None:
        """Add this user's figures to the record, once.

        Args:
            final: Whether the run is over, so that messages that have not arrived are
                lost.

        """
        RUN.members.discard(self)
        if self.accounted or self.record is not RUN.record:
            return
        self.accounted = True
        tally = self.record.tally(self.crowd)
        tally += self.audit.tally()
        if self.connected_at:
            self.record.joined += 1
        elif final and RUN.ended - self.born > ANSWER_TIMEOUT * 1e9:
            self.record.absent[self.crowd] += 1
        if self.audit.epoch is None:
            return
        self.record.reached(self.place(), self.audit.last())
        if final and self.lost_at:
            self.not_back()
        elif final:
            self.record.ended(self.crowd, self.place(), self.audit.last())

    def on_stop(self) -> None:
        self.account(final=False)
        self.hang_up()
