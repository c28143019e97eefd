"""A publisher that keeps to its schedule."""

from __future__ import annotations

import random
import time
from typing import Any, ClassVar

import gevent
import msgspec
from locust.env import Environment

from labserver.contract.messages import Ack, Error
from labserver.load.run.clock import CLOCK
from labserver.load.run.hooks import options_of
from labserver.load.run.life import RUN
from labserver.load.users.user import WebSocketUser

# gevent's loop (libev on epoll) waits whole milliseconds. A publisher polls the clock
# for the last one before a message is due, or it would always be late; except at rates
# so high that it would do nothing but poll.
TIMER_STEP = 1_200_000  # ns
CATCH_UP = 1_000_000_000  # ns: what was due earlier is not sent after the end
AGAIN_AFTER = 0.25  # seconds before a refused message is published again


class Publisher(WebSocketUser):
    """A member that publishes on its own schedule, whatever the server does.

    It is an open loop: the due time of a message does not depend on the answer to the
    previous one. A publisher that waits for answers does not publish while the server
    is frozen, and so hides the freeze (coordinated omission).
    """

    abstract = True
    publishes = True

    payload_least: ClassVar[int] = 0  # bytes
    publish_rate: ClassVar[float] = 0.0  # a second; 0: --publish-rate

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        options = options_of(environment)
        self.period = round(1e9 / (self.publish_rate or options.publish_rate))
        self.look_ahead = TIMER_STEP if self.period > 16 * TIMER_STEP else 0
        self.due = 0  # when the next message is due, monotonic ns
        self.sent_at: dict[object, int] = {}  # ref -> when; no ack yet
        # In a run with faults, messages without an ack are published again, with a key
        # that prevents a second delivery: ref -> message.
        self.careful = options.fault != "none"
        self.unsure: dict[object, bytes] = {}
        self.again_at = 0.0  # when to publish again after an error
        self.sent = 0
        self.payload_bytes = max(options.payload_bytes, self.payload_least)
        if self.payload_bytes > options.payload_bytes:
            self.record.notes[self.scenario] = (
                f"Payloads in this room have {self.payload_bytes:,} bytes."
            )

    def converse(self) -> None:
        while not RUN.settled.is_set():
            self.read(0.02)
        self.publish_again()
        if not self.due:
            # Publishers that start together should not publish at the same moments.
            self.due = time.monotonic_ns() + random.randrange(self.period)
        while not RUN.draining:
            if self.again_at and time.monotonic() > self.again_at:
                self.publish_again()
            left = self.due - time.monotonic_ns()
            if left <= 0:
                self.publish()
            elif left > self.look_ahead:
                self.read((left - self.look_ahead) / 1e9)
            else:
                gevent.sleep(0)
        # What fell due just before the end was not sent for lack of time only.
        while self.due <= RUN.ended < self.due + CATCH_UP:
            self.publish()
        while self.unsure:
            if self.again_at and time.monotonic() > self.again_at:
                self.publish_again()
            self.read(0.1)
        super().converse()

    def publish(self) -> None:
        """Send the message that is due."""
        self.sent += 1
        sent = time.monotonic_ns()
        # What fell due during an outage, or while the server did not read, is late
        # because of the server. Only the rest of the delay is the generator's own.
        slip = max(0, sent - max(self.due, self.connected_at, self.socket.held_up))
        due = self.due + CLOCK.offset
        head = b'{"due":%d,"sent":%d,"replica":%b,"number":%d,"pad":"' % (
            due,
            due + slip,
            msgspec.json.encode(self.replica),
            self.sent,
        )
        payload = head.ljust(self.payload_bytes - 2, b".") + b'"}'
        if self.dialect.acknowledges:
            self.sent_at[self.sent] = sent
        self.record.slip.record(slip // 1000)
        self.record.published[self.scenario] += 1
        self.due += self.period
        key = f"{self.name}-{self.sent}" if self.careful else ""
        message = self.dialect.publish(self.room, payload, self.sent, key)
        if key:
            self.unsure[self.sent] = message
        if not self.dialect.numbered:
            self.record.reached(self.place(), self.sent)
        self.socket.send(message)
        self.fire("publish", size=len(payload))

    def publish_again(self) -> None:
        """Send all messages without an ack again, in their order."""
        self.again_at = 0.0
        for message in list(self.unsure.values()):
            self.record.own(self.scenario).counts["published again"] += 1
            self.socket.send(message)

    def answered(self, message: Any) -> None:
        if isinstance(message, Ack):
            self.record.reached(self.place(), message.seq)
            self.unsure.pop(message.ref, None)
            sent = self.sent_at.pop(message.ref, None)
            if sent is not None:
                self.fire("ack", milliseconds=(self.socket.arrived - sent) / 1e6)
            return
        if isinstance(message, Error) and message.ref in self.unsure:
            self.again_at = self.again_at or time.monotonic() + AGAIN_AFTER
            return
        if isinstance(message, Error):
            self.sent_at.pop(message.ref, None)
        super().answered(message)

    def pending(self) -> bool:
        return super().pending() or (bool(self.sent_at) and self.connected)

    def account(self, final: bool) -> None:
        if not self.accounted and self.record is RUN.record:
            left = self.left(RUN.ended) if final else 0
            if self.connected and not self.socket.unsent:
                held_up = max(self.connected_at, self.socket.held_up)
                theirs = self.left(min(held_up, RUN.ended)) if final else 0
                self.record.late += left - theirs
                left = theirs
            self.record.due[self.room] += self.sent + left
            if final:
                self.record.unanswered += len(self.sent_at)
        super().account(final)

    def left(self, until: int) -> int:
        """Return how many messages were due up to ``until``, and have not been sent."""
        if not self.due or self.due > until:
            return 0
        return (until - self.due) // self.period + 1
