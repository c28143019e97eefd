"""Users that speak the lab's protocol. They are abstract: scenarios name concrete ones.

A user is one connection in one greenlet. It connects inside its task, never in
``on_start``, where an error would end it for good; after a failure it waits with
full jitter, since a failing task is called again at once.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from typing import Any, ClassVar

import gevent
import msgspec
from _audit import Audit
from _budget import Budget
from _options import USERS_LIMIT, token, urls, user_name
from _run import RUN
from _ws import Closed, NotThisMachine, WebSocket, normal
from locust import User, task
from locust.env import Environment

from labserver.closing import Return, comes_back
from labserver.messages import Ack, Error, Gap, Hello, Joined, Left, Pong

BACKOFF_FIRST, BACKOFF_MOST = 0.1, 5.0  # seconds
ANSWER_TIMEOUT = 5.0  # seconds
# Locust's bookkeeping of one event costs about as much as parsing a message. It is
# shown one in so many, and the name of the row says so; our own figures have them all.
EVENT_EVERY = 100
# gevent's loop (libev on epoll) waits whole milliseconds. The last one before a
# message is due is spent looking, so that a publisher is not late by design; unless it
# has so many to send that it would do nothing else.
TIMER_STEP = 1_200_000  # ns


class Stamp(msgspec.Struct):
    """A payload: when it was due and sent (monotonic ns), and through which replica."""

    due: int
    sent: int
    replica: str = ""


class Delivery(msgspec.Struct, tag_field="type", tag="message"):
    """A ``message``, with a payload that a publisher of ours made."""

    room: str
    seq: int
    payload: Stamp


FromServer = Delivery | Joined | Ack | Error | Gap | Hello | Left | Pong
decode = msgspec.json.Decoder(FromServer).decode


class LabUser(User):
    """One connection, in one room, that is audited."""

    abstract = True

    scenario: ClassVar[str]
    label: ClassVar[str] = "subscribers"
    by_design: ClassVar[bool] = False  # its lateness and losses are the subject
    receive_buffer: ClassVar[int] = 0  # SO_RCVBUF in bytes; 0: the kernel's choice
    count = itertools.count()  # of all users in this process

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.number = next(LabUser.count)
        self.name = user_name()
        self.crowd = f"{self.scenario}/{self.label}"
        self.room = RUN.room(self.scenario)
        self.record = RUN.record
        self.record.users[type(self).__name__] += 1
        self.record.published[self.scenario] += 0
        self.latency = self.record.histogram(self.crowd)
        self.budget = self.record.budgets.setdefault(self.crowd, Budget())
        if self.by_design:
            self.record.by_design.add(self.crowd)
        self.socket: WebSocket | None = None
        self.audit = Audit(self.room)
        self.replica = ""
        self.joined = False
        self.connected_at = 0
        self.failures = 0
        self.received = 0
        self.accounted = False
        RUN.members.add(self)

    def url(self) -> str:
        """Return where to connect."""
        return normal(self.host)

    # Life

    @task
    def live(self) -> None:
        """Be connected once, from handshake to end. Locust calls it again."""
        if RUN.draining or len(RUN.members) > USERS_LIMIT:
            gevent.sleep(1)
            return
        started = time.perf_counter()
        try:
            self.connect()
        except NotThisMachine as exc:
            self.fail("connect", started, exc)
            gevent.sleep(BACKOFF_MOST)
            return
        except OSError as exc:
            self.fail("connect", started, exc)
            self.back_off()
            return
        self.failures = 0
        started = time.perf_counter()
        try:
            self.converse()
        except OSError as exc:
            self.lost_connection(started, exc)
        finally:
            self.hang_up()

    def connect(self) -> None:
        """Open a socket, hear the hello, join the room."""
        started = time.perf_counter()
        self.socket = WebSocket(self.url(), token(self.name), self.receive_buffer)
        try:
            hello = self.await_message(Hello)
            self.replica = hello.replica
            self.fire("connect", started)
            started = time.perf_counter()
            join: dict[str, Any] = {"type": "join", "room": self.room, "ref": "join"}
            if cursor := self.audit.cursor():
                join["after"] = cursor
            self.socket.send(msgspec.json.encode(join))
            # What was missed comes after the answer; nothing comes before it.
            self.await_message(Joined)
            self.fire("join", started)
            self.joined = True
            self.connected_at = time.monotonic_ns()
        except BaseException:
            self.hang_up()
            raise

    def await_message(self, kind: type) -> Any:
        """Handle messages until one of a type came; return that one."""
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while (left := deadline - time.monotonic()) > 0:
            found = None
            for data in self.socket.receive(left):
                message = self.handle(data)
                if isinstance(message, kind):
                    found = message
                elif isinstance(message, Error):
                    raise ConnectionError(f"{message.code}: {message.detail}")
            if found is not None:
                return found
        raise ConnectionError(f"no {kind.__name__.lower()} within {ANSWER_TIMEOUT:g} s")

    def converse(self) -> None:
        """Read until the connection ends."""
        self.socket.listen(self.took)

    def hang_up(self) -> None:
        socket, self.socket = self.socket, None
        if socket is not None:
            socket.close()

    def lost_connection(self, started: float, exc: OSError) -> None:
        """Decide what the end of a connection means, and whether to come back."""
        code = exc.code if isinstance(exc, Closed) else None
        if self.by_design:
            self.outcome("cut off without a goodbye" if code == 1006 else str(exc))
        elif not RUN.draining:
            self.fail("connection", started, exc)
        match comes_back(None if code == 1006 else code):
            case Return.NEVER | Return.NEW_TOKEN:
                while not RUN.draining:  # the answer would be the same
                    gevent.sleep(1)
            case Return.LATER:
                gevent.sleep(random.uniform(BACKOFF_MOST / 2, BACKOFF_MOST))
            case Return.SOON:
                self.back_off()

    def back_off(self) -> None:
        """Wait before the next attempt: the cap first, then the jitter."""
        most = min(BACKOFF_MOST, BACKOFF_FIRST * 2**self.failures)
        self.failures = min(self.failures + 1, 16)
        gevent.sleep(random.uniform(0, most))

    # Messages

    def read(self, timeout: float | None, size: int = 65536) -> None:
        """Read once and handle what came."""
        if messages := self.socket.receive(timeout, size):
            self.took(messages)

    def took(self, messages: list[bytes]) -> None:
        """Handle the messages of one read. This must not wait: see listen()."""
        socket = self.socket
        RUN.active = socket.arrived
        if socket.lag is not None:
            self.record.lag.record(socket.lag // 1000)
        for data in messages:
            self.handle(data)

    def handle(self, data: bytes) -> Any:
        try:
            message = decode(data)
        except msgspec.ValidationError:
            self.strange(data)
            return None
        if type(message) is Delivery:
            self.audit.message(message.seq)
            self.delivered(message, len(data))
        elif isinstance(message, Joined):
            self.audit.joined(msgspec.to_builtins(message))
            self.record.reached(self.place(), message.seq)
        elif isinstance(message, Gap):
            self.audit.gap(msgspec.to_builtins(message))
        else:
            self.answered(message)
        return message

    def delivered(self, message: Delivery, size: int) -> None:
        """Take the time of a message. This is the hot path."""
        late = (self.socket.arrived - message.payload.due) // 1000
        self.latency.record(late)
        self.received += 1
        if self.received % EVENT_EVERY == 0:
            self.fire(
                f"message (1 of {EVENT_EVERY})", milliseconds=late / 1000, size=size
            )
            sent = message.payload.sent
            self.budget.record(
                (sent - message.payload.due) // 1000,
                (self.socket.arrived - sent) // 1000,
                (self.socket.lag or 0) // 1000,
            )

    def answered(self, message: Any) -> None:
        if isinstance(message, Error):
            self.problem(f"{message.code}: {message.detail}")

    def strange(self, data: bytes) -> None:
        """Handle what no load test sends: somebody else's message still counts."""
        message = msgspec.json.decode(data)
        if message.get("type") == "message":
            self.audit.message(message["seq"])

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
        """Tell Locust. A send has no response time: None, for 0 would be a fast one."""
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
        """Note what became of a user that is slow by design."""
        self.record.outcomes.setdefault(self.crowd, Counter())[what] += 1

    def place(self) -> str:
        """Return the numbering that seqs belong to: a new one starts with its epoch."""
        return f"{self.room} {self.audit.epoch}"

    def pending(self) -> bool:
        return False

    def account(self, final: bool) -> None:
        """Add this user's figures to the record, once.

        Args:
            final: Whether the run is over, so that what this user has not got by now
                is lost.

        """
        RUN.members.discard(self)
        if self.accounted or self.record is not RUN.record:
            return
        self.accounted = True
        tally = self.record.tally(self.crowd)
        tally += self.audit.tally()
        if self.audit.epoch is None:
            return
        self.record.reached(self.place(), self.audit.last())
        if final:
            self.record.ended(self.crowd, self.place(), self.audit.last())

    def on_stop(self) -> None:
        self.account(final=False)
        self.hang_up()


class Publisher(LabUser):
    """A member that publishes on a schedule of its own, whatever the server does.

    Open-loop: when a message is due does not depend on when the one before was
    answered. A publisher that waits for answers stops asking while the server is
    frozen, and so hides the freeze (coordinated omission).
    """

    abstract = True

    payload_least: ClassVar[int] = 0  # bytes

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        options = environment.parsed_options
        self.period = round(1e9 / options.publish_rate)
        self.look_ahead = TIMER_STEP if self.period > 16 * TIMER_STEP else 0
        self.due = 0  # of the next message, monotonic ns
        self.sent_at: dict[int, int] = {}  # ref -> when, for what awaits its ack
        self.sent = 0
        self.payload_bytes = max(options.payload_bytes, self.payload_least)
        if self.payload_bytes > options.payload_bytes:
            self.record.notes[self.scenario] = (
                f"Payloads in this room have {self.payload_bytes:,} bytes."
            )

    def converse(self) -> None:
        while not RUN.settled.is_set():
            self.read(0.02)
        if not self.due:
            # Publishers that start together should not speak together.
            self.due = time.monotonic_ns() + random.randrange(self.period)
        while not RUN.draining:
            left = self.due - time.monotonic_ns()
            if left <= 0:
                self.publish()
            elif left > self.look_ahead:
                self.read((left - self.look_ahead) / 1e9)
            else:
                gevent.sleep(0)
        super().converse()

    def publish(self) -> None:
        """Send the message that is due."""
        self.sent += 1
        sent = time.monotonic_ns()
        head = b'{"due":%d,"sent":%d,"replica":%b,"pad":"' % (
            self.due,
            sent,
            msgspec.json.encode(self.replica),
        )
        payload = head.ljust(self.payload_bytes - 2, b".") + b'"}'
        self.sent_at[self.sent] = sent
        if self.due >= self.connected_at:
            # What fell due during an outage is late by the server's doing.
            self.record.slip.record((sent - self.due) // 1000)
        self.record.published[self.scenario] += 1
        self.due += self.period
        self.socket.send(
            b'{"type":"publish","room":"%b","ref":%d,"payload":%b}'
            % (self.room.encode(), self.sent, payload)
        )
        self.fire("publish", size=len(payload))

    def answered(self, message: Any) -> None:
        if isinstance(message, Ack):
            self.record.reached(self.place(), message.seq)
            sent = self.sent_at.pop(message.ref, None)
            if sent is not None:
                self.fire("ack", milliseconds=(self.socket.arrived - sent) / 1e6)
            return
        if isinstance(message, Error):
            self.sent_at.pop(message.ref, None)
        super().answered(message)

    def pending(self) -> bool:
        return bool(self.sent_at) and self.socket is not None

    def account(self, final: bool) -> None:
        if not self.accounted and final:
            self.record.unanswered += len(self.sent_at)
        super().account(final)


class SlowReader(LabUser):
    """A reader that takes less than it is sent, on a small window.

    What happens to it is decided by the server's policy, and is no failure of the run;
    only what no policy allows is: a silent hole, a message twice, a wrong order.
    """

    abstract = True

    by_design = True
    receive_buffer = 4096  # bytes: the kernel should not read for it

    def delivered(self, message: Delivery, size: int) -> None:
        # Its own slowness is the subject: until it has read, it has not got it.
        read = self.socket.arrived + (self.socket.lag or 0)
        self.latency.record((read - message.payload.due) // 1000)

    def read(self, timeout: float | None, size: int = 65536) -> None:
        """Read once; how late that is says nothing about the generator."""
        if messages := self.socket.receive(timeout, size):
            self.took(messages)

    def took(self, messages: list[bytes]) -> None:
        RUN.active = time.monotonic_ns()
        for data in messages:
            self.handle(data)

    def account(self, final: bool) -> None:
        if final and not self.accounted and self.socket is not None:
            self.outcome("still connected at the end")
        super().account(final)


class AcrossReplicas:
    """Mixed into users that take the servers of ``--replicas`` in turn."""

    label = "members"
    turns = itertools.count()

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)  # type: ignore[call-arg]
        # The n-th user of each class goes to the n-th server, in every process.
        offset = getattr(environment.runner, "worker_index", 0)
        self.turn = next(type(self).turns) + max(0, offset)
        servers = urls(environment.parsed_options)
        self.server = servers[self.turn % len(servers)]
        if len(servers) == 1:
            self.record.notes[self.scenario] = (
                "One server only: --replicas URL,URL compares those of a cluster."
            )

    def url(self) -> str:
        return self.server

    def delivered(self, message: Delivery, size: int) -> None:
        same = message.payload.replica == self.replica
        side = "same replica" if same else "other replica"
        self.latency = self.record.histogram(f"{self.scenario}/{side}")
        super().delivered(message, size)
