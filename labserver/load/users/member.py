"""A member of a room: what it hears is judged, measured and recorded.

It is abstract, and does not connect: :class:`labserver.load.users.user.WebSocketUser`
does.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
from locust import User
from locust.env import Environment

import labserver.load.run.page  # noqa: F401 (it listens to Locust's events)
from labserver.contract.messages import Error, Gap, Joined
from labserver.load.dialects import Delivery, Dialect, Heard, Other, Reply, Stamp, named
from labserver.load.figures.audit import Audit
from labserver.load.figures.record import Record
from labserver.load.figures.trust import MOSTLY
from labserver.load.run.clock import CLOCK
from labserver.load.run.hooks import options_of
from labserver.load.run.life import RUN
from labserver.load.run.options import user_name
from labserver.load.run.rows import MESSAGE
from labserver.load.websocket import WebSocket

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


class Member(User):
    """A member of one room, with an audit of its messages."""

    abstract = True

    scenario: ClassVar[str]
    label: ClassVar[str] = "subscribers"
    by_design: ClassVar[bool] = False  # late or lost messages are its subject
    stays: ClassVar[bool] = True  # whether publishers wait until it has joined
    publishes: ClassVar[bool] = False
    of_lab: ClassVar[bool] = False  # whether it makes no sense in another dialect
    count = itertools.count()  # of all users in this process
    stall: tuple[int, int] | None = None  # of this process, around the newest read

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.number = next(Member.count)
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
        self.joined = False
        self.born = time.monotonic_ns()
        self.connected_at = 0
        self.lost_at = 0  # when its last connection ended, monotonic ns
        self.received = 0
        self.sampled = random.randrange(EVENT_EVERY)  # next message that Locust gets
        self.accounted = False
        RUN.members.add(self)

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

    def not_back(self) -> None:
        """Called at the end of the run if the user has not rejoined."""
        if not self.by_design:
            self.problem(f"{self.scenario}: a user had not reconnected at the end")
            self.record.ended(self.crowd, self.place(), self.audit.last())

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
