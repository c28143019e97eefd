"""A slow reader hurts only itself.

Without this, messages that a reader does not take pile up in the server's memory (the
first four megabytes unseen in the kernel) until the process dies for everyone.

How: each connection has an outbox with a limit. While the socket takes everything, the
outbox costs a single test. When the socket is full, messages wait in a backlog. A full
backlog follows the policy: ``disconnect``, ``drop-newest``, ``drop-oldest`` or
``conflate`` (keep the newest message of each room). The reader is told of every loss
with a ``gap``; answers are never dropped. A peer that takes no byte before the deadline
is cut off.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from os import write as os_write

from labserver.contract.closing import TOO_SLOW
from labserver.contract.wire import Chunk
from labserver.server.member import GOODBYE_TIMEOUT, LAST_LOOK, Reader
from labserver.server.metrics import Metrics
from labserver.server.parts import Parts
from labserver.settings import Settings
from labserver.stages.backlog import LOSS_SIZE, Backlog

WRITE_SIZE = 65536  # bytes written at a time: bytes in the socket cannot be dropped


class BoundedOutbox:
    """Holds at most ``outbox_limit`` bytes for one reader.

    The transport pauses at its first unsent byte (the server sets its limit to 0), so
    ``reader.paused`` means that the kernel's buffer is full.
    """

    __slots__ = (
        "backlog",
        "fd",
        "limit",
        "metrics",
        "policy",
        "reader",
        "stuck_timeout",
        "took",
        "took_at",
        "watched",
        "write",
    )

    def __init__(self, settings: Settings, reader: Reader, metrics: Metrics) -> None:
        self.reader = reader
        self.metrics = metrics
        self.write = reader.transport.write
        encrypted = reader.transport.get_extra_info("sslcontext")
        sock = reader.transport.get_extra_info("socket")
        self.fd = -1 if encrypted or sock is None else sock.fileno()
        self.limit = settings.outbox_limit or float("inf")
        self.policy = settings.outbox_policy
        self.stuck_timeout = settings.stuck_timeout
        self.backlog: Backlog | None = None  # most readers never need one
        self.took_at = 0.0  # time.monotonic() of the pause, or of the last progress
        self.took = 0  # the reader's count of bytes at that time
        self.watched = False  # whether a timer will call look()

    def deliver(self, chunk: Chunk) -> None:
        data = chunk.data
        if not self.reader.paused and len(data) <= self.limit:
            # Nothing waits in the transport, so this may write to the kernel directly:
            # that takes 8 % less CPU a delivery.
            try:
                sent = os_write(self.fd, data)
            except OSError:  # full or broken: the transport handles both
                sent = 0
            if sent < len(data):
                self.write(data[sent:])
        elif len(chunk.data) <= self.limit:
            self.hold(chunk)
        else:
            for single in chunk.singles():
                if self.reader.outbox is not self:
                    return  # the message before ended the connection
                if self.reader.paused:
                    self.hold(single)
                else:
                    self.write(single.data)

    def control(self, frame: bytes) -> None:
        if not self.reader.paused:
            self.write(frame)
            return
        self.backlog = self.backlog or Backlog()
        self.backlog.hold(frame)
        if self.backlog.kept > self.limit:  # a client that asks and does not read
            self.too_slow()

    def hold(self, chunk: Chunk) -> None:
        """Keep a chunk for later, as far as the policy allows."""
        backlog = self.backlog = self.backlog or Backlog()
        loses = self.policy != "disconnect"
        left = self.limit - self.reader.transport.get_write_buffer_size()
        left -= LOSS_SIZE if loses else 0  # space for the notice of a loss
        if backlog.size + len(chunk.data) <= left:
            backlog.hold(chunk)
        elif loses and backlog.kept <= self.limit:
            lost = backlog.lost
            backlog.squeeze(self.policy, chunk, left)
            self.metrics.drops += backlog.lost - lost
        else:
            # The client comes back and asks for the messages that it missed.
            self.too_slow()

    def too_slow(self) -> None:
        """Close the connection; the goodbye has a deadline, also without a timeout."""
        self.reader.end(TOO_SLOW, self.stuck_timeout or GOODBYE_TIMEOUT)

    def waiting(self) -> int:
        unsent = self.reader.transport.get_write_buffer_size()
        return unsent + (self.backlog.size if self.backlog else 0)

    def resumed(self) -> None:
        """Write from the backlog until the kernel is full again or nothing waits."""
        reader, backlog = self.reader, self.backlog
        if backlog is None:
            return
        while not reader.paused and backlog.entries:
            self.write(backlog.take(reader.variant, WRITE_SIZE))
        if not backlog.entries:
            self.backlog = None

    def paused(self) -> None:
        """Begin to watch whether the peer takes any byte."""
        self.progress()
        if not self.watched:
            self.watch(self.stuck_timeout)

    def progress(self) -> None:
        """Note that the peer takes bytes, and how many it took."""
        self.took_at = time.monotonic()
        self.took = self.reader.taken()

    def watch(self, within: float, last: bool = False) -> None:
        """Check the peer after ``within`` seconds; the ``last`` check may end it."""
        self.watched = self.stuck_timeout > 0
        if self.watched:
            self.reader.loop.call_later(within, self.look, last)

    def look(self, last: bool) -> None:
        """Cut off a peer that took no byte for ``stuck_timeout`` seconds."""
        self.watched = False
        reader = self.reader
        if reader.outbox is not self or not reader.paused:
            return
        if reader.taken() > self.took:
            self.progress()
        left = self.took_at + self.stuck_timeout - time.monotonic()
        if left > 0:
            self.watch(left)
        elif not last:
            # This process may have stalled, while the peer took the kernel's bytes.
            # That shows after the next write.
            self.watch(LAST_LOOK, last=True)
        else:
            self.metrics.stuck += 1
            reader.cut(TOO_SLOW)


def extend(parts: Parts, settings: Settings) -> Parts:
    """Replace the outbox."""
    return replace(parts, outbox=partial(BoundedOutbox, settings))
