"""Slow readers: one that stalls and one that dawdles, in a room with healthy ones.

The question: do the healthy ones notice? And what becomes of the others: closed, told
what they missed, or served late?
"""

import gevent
from _run import RUN
from _user import LabUser, Publisher, SlowReader


class SlowRoomPublisher(Publisher):
    """Publishes messages that are big enough to fill a buffer."""

    scenario = "slow_readers"
    label = "healthy"
    fixed_count = 1
    payload_least = 32_768


class HealthyReader(LabUser):
    """Reads what comes, as it comes."""

    scenario = "slow_readers"
    label = "healthy"
    weight = 3


class StalledReader(SlowReader):
    """Joins, and reads nothing more until the run is over."""

    scenario = "slow_readers"
    label = "stalled"
    fixed_count = 1

    def converse(self) -> None:
        RUN.drain_started.wait()
        super().converse()

    def delivered(self, message: object, size: int) -> None:
        """A message that was not read for the whole run has no latency."""


class ThrottledReader(SlowReader):
    """Reads 160 KB a second, a quarter of what it is sent, until the run is over."""

    scenario = "slow_readers"
    label = "throttled"
    fixed_count = 1
    sip = 16_000  # bytes, ten times a second
    receive_buffer = 32_768  # bytes: there must be a sip in it

    def converse(self) -> None:
        while not RUN.draining:
            self.read(None, self.sip)
            gevent.sleep(0.1)
        super().converse()
