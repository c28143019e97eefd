"""When this process stood still, and why: stopped, starved, or busy.

The kernel notes when a segment arrives, so one message that is read late still has its
latency. Several messages that wait in a socket have not: the kernel joins their
segments, and keeps the time of the newest one. So what waited while the reader stood
still has arrived at an unknown time, and is not measured.

A ticking timer shows when a process stands still, because then it ticks late.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import gevent

from labserver.load.figures.record import Record
from labserver.load.websocket import clocks

TICK = 10_000_000  # ns between two ticks
TOLERANCE = 10_000_000  # ns that a tick may be late
SCHEDSTAT = Path("/proc/self/schedstat")  # ns running, ns waiting, times
STAT = Path("/proc/stat")
STOLEN = 8  # place of the time that a hypervisor gave to others


class Stalls:
    """Records how late this process's timers are, and when it stood still.

    On systems other than Linux, the kernel does not say when a message arrived. There,
    late timers are the only sign that the generator was too busy to read.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.due = time.monotonic_ns() + TICK  # of the next tick
        self.start = self.end = 0  # of the newest stall, monotonic ns
        self.still = self.longest = 0  # ns
        self.theft = Theft()
        self.greenlet = gevent.spawn(self.watch)

    def watch(self) -> None:
        while True:
            gevent.sleep(TICK / 1e9)
            self.tick(time.monotonic_ns())
            clocks.compare()

    def tick(self, now: int) -> None:
        """Note that the process runs."""
        late = max(0, now - self.due)
        self.record.loop.record(late // 1000)
        if late > TOLERANCE:
            self.start, self.end = self.begin(), now
            self.still += late
            self.longest = max(self.longest, late)
        self.due = now + TICK

    def begin(self) -> int:
        """Return when the stall began that has not ended."""
        begin = self.due - TICK
        # It may go on where the last one ended: reading what has waited takes time.
        return self.start if self.end and begin - self.end < TICK else begin

    def around(self, since: int, until: int) -> tuple[int, int] | None:
        """Return begin and end of a stall that touches a time; None if none does.

        What is read now did not wait in a stall that is over: all that had waited was
        read before the next tick, or the stall went on.
        """
        now = time.monotonic_ns()
        if now - self.due > TOLERANCE:  # it has not ticked since
            found = self.begin(), now
        elif now - self.end > TICK + TOLERANCE:
            return None
        else:
            found = self.start, self.end
        return found if since < found[1] and until > found[0] else None

    def stop(self) -> None:
        if not self.greenlet.dead:
            self.tick(time.monotonic_ns())
            self.greenlet.kill()


class Theft:
    """How long a process had to wait for a processor, since this object was made."""

    def __init__(self) -> None:
        self.began, self.waited = time.monotonic_ns(), waiting()
        self.stolen, self.all = stolen()

    def shares(self) -> tuple[float, float]:
        """Return the share of the time that this process was ready and did not run.

        The second share is of the machine: the time of its processors that a
        hypervisor gave to others.

        """
        now, (theft, everything) = time.monotonic_ns(), stolen()
        return (
            (waiting() - self.waited) / max(1, now - self.began),
            (theft - self.stolen) / max(1, everything - self.all),
        )


def waiting() -> int:
    """Return the nanoseconds that this process has waited for a processor; else 0."""
    try:
        return int(SCHEDSTAT.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0  # not Linux, or a kernel that does not count it


def stolen() -> tuple[int, int]:
    """Return the machine's stolen time and all its time, in ticks; else zeros."""
    try:
        with STAT.open() as file:
            ticks = [int(each) for each in file.readline().split()[1:]]
    except (OSError, ValueError):
        return 0, 0
    # The time of guests, behind it, is counted as user time, too.
    return (ticks[STOLEN - 1], sum(ticks[:STOLEN])) if len(ticks) >= STOLEN else (0, 0)


def host() -> str:
    return os.uname().nodename
