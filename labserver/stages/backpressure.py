"""A slow reader hurts only itself.

Without this, what a reader does not take piles up in the server's memory, four
megabytes of it unseen in the kernel first, until the process dies for everyone.

How: each connection has an outbox with a limit. While the socket takes everything, the
outbox is a single test. When it does not, messages wait in a backlog, and a full one
follows the policy: ``disconnect``, ``drop-newest``, ``drop-oldest`` or ``conflate``
(keep the newest of each room). Every loss is told with a ``gap``; answers are never
dropped. A peer that takes not one byte before the deadline is cut off.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from os import write as os_write

from labserver.contract.closing import TOO_SLOW
from labserver.contract.wire import Chunk
from labserver.server.connection import GOODBYE_TIMEOUT, LabConnection
from labserver.server.metrics import Metrics
from labserver.server.parts import Parts
from labserver.settings import Settings
from labserver.stages.backlog import LOSS_SIZE, Backlog

WRITE_SIZE = 65536  # bytes given to the socket at a time: what is there is past losing


class BoundedOutbox:
    """Hold at most ``outbox_limit`` bytes for one reader.

    The socket's own buffer reports pressure from its first byte (the server sets its
    limit to 0), so ``connection.paused`` means that the kernel is full.
    """

    __slots__ = (
        "backlog",
        "connection",
        "fd",
        "limit",
        "metrics",
        "paused_at",
        "policy",
        "stuck_timeout",
        "unsent",
        "waits",
        "write",
    )

    def __init__(
        self, settings: Settings, connection: LabConnection, metrics: Metrics
    ) -> None:
        self.connection = connection
        self.metrics = metrics
        self.write = connection.transport.write
        encrypted = connection.transport.get_extra_info("sslcontext")
        sock = connection.transport.get_extra_info("socket")
        self.fd = -1 if encrypted or sock is None else sock.fileno()
        self.limit = settings.outbox_limit or float("inf")
        self.policy = settings.outbox_policy
        self.stuck_timeout = settings.stuck_timeout
        self.backlog: Backlog | None = None  # most readers never need one
        self.paused_at = 0.0
        self.unsent = 0
        self.waits = False  # whether a look at a paused peer is due

    def deliver(self, chunk: Chunk) -> None:
        data = chunk.data
        if not self.connection.paused and len(data) <= self.limit:
            # Nothing waits in the transport, so its book-keeping is not needed: asking
            # the kernel directly takes 8 % less CPU a delivery.
            try:
                sent = os_write(self.fd, data)
            except OSError:  # full or broken: the transport knows what to do
                sent = 0
            if sent < len(data):
                self.write(data[sent:])
        elif len(chunk.data) <= self.limit:
            self.hold(chunk)
        else:
            for single in chunk.singles():
                if self.connection.outbox is not self:
                    return  # it was ended by the one before
                if self.connection.paused:
                    self.hold(single)
                else:
                    self.write(single.data)

    def control(self, frame: bytes) -> None:
        if not self.connection.paused:
            self.write(frame)
            return
        self.backlog = self.backlog or Backlog()
        self.backlog.hold(frame)
        if self.backlog.kept > self.limit:  # it asks and asks, and does not listen
            self.too_slow()

    def hold(self, chunk: Chunk) -> None:
        """Keep a chunk for later, or what the policy leaves of it."""
        backlog = self.backlog = self.backlog or Backlog()
        loses = self.policy != "disconnect"
        left = self.limit - self.connection.transport.get_write_buffer_size()
        left -= LOSS_SIZE if loses else 0  # the notice of a loss needs a place, too
        if backlog.size + len(chunk.data) <= left:
            backlog.hold(chunk)
        elif loses and backlog.kept <= self.limit:
            lost = backlog.lost
            backlog.squeeze(self.policy, chunk, left)
            self.metrics.drops += backlog.lost - lost
        else:
            # The client comes back, and asks for what it missed.
            self.too_slow()

    def too_slow(self) -> None:
        """Say goodbye; its deadline stays where being stuck has none."""
        self.connection.end(TOO_SLOW, self.stuck_timeout or GOODBYE_TIMEOUT)

    def waiting(self) -> int:
        unsent = self.connection.transport.get_write_buffer_size()
        return unsent + (self.backlog.size if self.backlog else 0)

    def resumed(self) -> None:
        """Write on, until the kernel is full again or nothing waits."""
        connection, backlog = self.connection, self.backlog
        if backlog is None:
            return
        while not connection.paused and backlog.entries:
            self.write(backlog.take(connection.variant, WRITE_SIZE))
        if not backlog.entries:
            self.backlog = None

    def paused(self) -> None:
        """Start to wait for progress."""
        self.paused_at = time.monotonic()
        self.unsent = self.connection.transport.get_write_buffer_size()
        if self.stuck_timeout and not self.waits:
            self.waits = True
            self.connection.loop.call_later(self.stuck_timeout, self.look)

    def look(self) -> None:
        """Cut off a peer that has been paused and took nothing for the whole time."""
        self.waits = False
        connection = self.connection
        if connection.outbox is not self or not connection.paused:
            return
        unsent = connection.transport.get_write_buffer_size()
        left = self.paused_at + self.stuck_timeout - time.monotonic()
        if unsent < self.unsent:
            self.unsent, self.paused_at = unsent, time.monotonic()
            left = self.stuck_timeout
        if left > 0:
            self.waits = True
            connection.loop.call_later(left, self.look)
        else:
            self.metrics.stuck += 1
            connection.cut(TOO_SLOW)


def extend(parts: Parts, settings: Settings) -> Parts:
    """Replace the outbox."""
    return replace(parts, outbox=partial(BoundedOutbox, settings))
