"""Users that do not stay: visitors with good tokens, strangers with bad ones."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import gevent
import msgspec
from locust.env import Environment

from labserver.contract.messages import Left
from labserver.contract.tokens import issue
from labserver.load.dialects import Delivery, Stamp
from labserver.load.figures.audit import Audit
from labserver.load.figures.record import Record
from labserver.load.run.clock import CLOCK
from labserver.load.run.life import RUN
from labserver.load.run.options import token, user_name
from labserver.load.users.member import ANSWER_TIMEOUT
from labserver.load.users.user import WebSocketUser
from labserver.load.websocket import Refused, WebSocket
from labserver.settings import secret_of

PERIOD = 0.5  # seconds between two visits
ROOMMATES = 4  # visitors that share a room; few, so that it is often empty


class Visitor(WebSocketUser):
    """Connects, joins, publishes, gets its message, leaves, hangs up; and repeats."""

    abstract = True

    stays = False

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.room = f"{self.room}.{os.getpid()}.{self.number // ROOMMATES}"
        self.own = self.record.own(self.scenario)
        self.due = 0  # due time of the message that it waits for; 0: none

    def attend(self) -> None:
        if RUN.draining:
            gevent.sleep(1)
            return
        began = time.monotonic()
        started = time.perf_counter()
        self.audit = Audit(self.room)  # messages between two visits are not missed
        try:
            self.connect()
            self.visit()
            self.backoff.attempt = 0  # a whole visit went well
        except OSError as exc:
            if not self.excused():
                self.fail("visit", started, exc)
            gevent.sleep(self.backoff.next())
        finally:
            self.hang_up()
            self.record.tally(self.crowd).__iadd__(self.audit.tally())
        took = time.monotonic() - began
        gevent.sleep(max(0.0, random.uniform(0.5, 1.5) * PERIOD - took))

    def visit(self) -> None:
        """Publish a message, wait for it, and leave."""
        due = self.due = CLOCK.now()
        payload = msgspec.json.encode(Stamp(due, due, self.replica))
        self.socket.send(self.dialect.publish(self.room, payload, self.number))
        self.record.published[self.scenario] += 1
        self.record.slip.record(0)
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while self.due:
            if time.monotonic() > deadline:
                raise ConnectionError("did not get its own message")
            self.read(ANSWER_TIMEOUT)
        started = time.perf_counter()
        if leave := list(self.dialect.leave(self.room)):
            self.say(leave)
            self.await_message(Left)
            self.timed("leave", started)
        self.own.counts["cycles"] += 1

    def delivered(self, message: Delivery, size: int) -> None:
        if message.payload.due == self.due:
            self.due = 0
        super().delivered(message, size)

    def fire(self, what: str, started: float | None = None, **more: Any) -> None:
        if started is not None and what in ("connect", "join"):
            self.timed("handshake" if what == "connect" else what, started)
        super().fire(what, started, **more)

    def timed(self, what: str, started: float) -> None:
        took = time.perf_counter() - started
        self.own.histogram(what).record(round(took * 1e6))

    def so_far(self, record: Record) -> None:
        """Add nothing: each visit is counted at its end."""

    def account(self, final: bool) -> None:
        """Count the user; each of its visits has been counted already."""
        RUN.members.discard(self)
        if not self.accounted:
            self.accounted = True
            self.record.joined += bool(self.connected_at)


class Stranger(WebSocketUser):
    """Tries bad tokens in turn; the server must refuse each of them."""

    abstract = True

    stays = False
    of_lab = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.attempts: Iterator[tuple[str, str]] = itertools.cycle(bad_tokens())

    def attend(self) -> None:
        if RUN.draining:
            gevent.sleep(1)
            return
        what, bad = next(self.attempts)
        own, started = self.record.own(self.scenario), time.perf_counter()
        try:
            headers = {"Authorization": f"Bearer {bad}"} if bad else {}
            WebSocket(self.url(), headers).close()
            self.problem(f"{self.scenario}: a {what} token was accepted")
        except Refused as exc:
            took = time.perf_counter() - started
            if exc.status == 401:
                own.counts[f"refused, {what}"] += 1
                own.histogram("refusal").record(round(took * 1e6))
                self.fire("stranger refused", milliseconds=took * 1000)
            elif not self.excused():
                self.problem(f"{self.scenario}: {what} token: {exc}, not 401")
        except OSError as exc:
            if not self.excused():
                self.fail("stranger", started, exc)
        gevent.sleep(random.uniform(0.5, 1.5) * PERIOD)

    def account(self, final: bool) -> None:
        RUN.members.discard(self)
        if not self.accounted:
            self.accounted = True
            self.record.joined += 1  # it has no room


def bad_tokens() -> list[tuple[str, str]]:
    """Return bad tokens, each with a word that says what is wrong with it."""
    found = [("missing", ""), ("garbage", "no.token.at-all")]
    good = token(user_name())
    forged = good.rpartition(".")[0] + "." + "A" * 43
    found.append(("forged", forged))
    if secret := secret_of():
        found.append(("expired", issue(secret, user_name(), ttl=-60)))
    return found
