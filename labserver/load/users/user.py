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
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import gevent
from locust import task
from locust.env import Environment
from websockets.frames import Frame

from labserver.client import Backoff
from labserver.contract.closing import Return, after_status, comes_back
from labserver.contract.messages import Error, Hello, Joined
from labserver.load.addresses import normal
from labserver.load.run.arguments import USERS_LIMIT
from labserver.load.run.hooks import options_of
from labserver.load.run.life import RUN
from labserver.load.run.options import urls
from labserver.load.users.member import ANSWER_TIMEOUT, Member
from labserver.load.websocket import Closed, Refused, WebSocket
from labserver.processes.reach import NotThisMachine

turns: defaultdict[type, Iterator[int]] = defaultdict(itertools.count)


class WebSocketUser(Member):
    """One connection in one room."""

    abstract = True

    across: ClassVar[bool] = False  # whether to spread over all servers
    receive_buffer: ClassVar[int] = 0  # SO_RCVBUF in bytes; 0: the kernel's choice
    came = False  # whether it has tried to connect

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.heartbeat: float | None = None  # seconds between the server's pings
        self.backoff = self.new_backoff()
        # The n-th user of each class goes to the n-th server, in every process.
        offset = getattr(environment.runner, "worker_index", 0)
        self.servers = urls(options_of(environment)) if self.across else []
        self.turn = next(turns[type(self)]) + max(0, offset)

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

    def stay_away(self) -> None:
        """Wait for the end of the run."""
        while not RUN.draining:
            gevent.sleep(1)

    def control(self, frame: Frame) -> None:
        """Called for each control frame; a ping has been answered already."""

    def on_stop(self) -> None:
        self.account(final=False)
        self.hang_up()
