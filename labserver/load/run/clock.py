"""One clock for all processes of a run: that of the master.

A latency between two processes needs one clock. Processes of one kernel have one. The
clock of another machine is compared with the master's over their connection: half of
the fastest of many round trips is how wrong the comparison can be.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

import gevent

KEPT = 10_000_000_000  # ns for which a comparison counts; clocks drift
DRIFT = 1e-4  # at most, of the time since: 100 millionths, as clocks of computers do
QUICK, QUICK_PAUSE, PAUSE = 40, 0.01, 0.25  # round trips, seconds between them


class Clock:
    """The master's clock, as this process knows it.

    Attributes:
        offset: Nanoseconds to add to this process's monotonic clock.
        unsure: Nanoseconds by which that may be wrong.
        same: Whether it is the same clock; None until the master has answered.

    """

    def __init__(self) -> None:
        self.offset = self.unsure = 0
        self.same: bool | None = None
        self.trips: deque[tuple[int, int, int]] = deque()  # when, doubt, offset

    def now(self) -> int:
        """Return the time of the run, in nanoseconds."""
        return time.monotonic_ns() + self.offset

    def answered(self, asked: int, theirs: int, kernel: str, now: int) -> None:
        """Compare with an answer of the master.

        Args:
            asked: When it was asked, on this process's clock.
            theirs: When it answered, on its own clock.
            kernel: :func:`identity` of its clock.
            now: When the answer came, on this process's clock.

        """
        self.same = bool(kernel) and kernel == identity()
        if self.same:
            self.offset = self.unsure = 0
            return
        doubt = (now - asked) // 2
        self.trips.append((now, doubt, theirs - asked - doubt))
        while now - self.trips[0][0] > KEPT:
            self.trips.popleft()
        self.unsure, self.offset = min(
            (doubt + int(DRIFT * (now - when)), offset)
            for when, doubt, offset in self.trips
        )


CLOCK = Clock()


def identity() -> str:
    """Return what names the monotonic clock of this process; "" if nothing does."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/time')}"
    except OSError:
        return ""  # not Linux


# The worker's side


def compare(runner: Any) -> None:
    """Ask the master for its time, again and again, unless the clock is the same."""
    runner.register_message("lab_time", hear)
    gevent.spawn(ask, runner)


def ask(runner: Any) -> None:
    number = 0
    while not CLOCK.same:
        with contextlib.suppress(Exception):  # not connected: asked again
            runner.send_message("lab_time", {"asked": time.monotonic_ns()})
        number += 1
        gevent.sleep(QUICK_PAUSE if number < QUICK else PAUSE)


def hear(msg: Any, **_: Any) -> None:
    now, said = time.monotonic_ns(), msg.data
    CLOCK.answered(said["asked"], said["theirs"], said["kernel"], now)


# The master's side


def tell(runner: Any) -> None:
    """Answer workers that ask for the time."""

    def answer(msg: Any, **_: Any) -> None:
        said = {"asked": msg.data["asked"], "kernel": identity()}
        runner.send_message(
            "lab_time", {**said, "theirs": time.monotonic_ns()}, msg.node_id
        )

    runner.register_message("lab_time", answer)
