"""Slow readers: one stalls, one dawdles, one does both by turns, in a healthy room.

The question: do the healthy ones notice? And what becomes of the others: closed, told
what they missed, or served late? ``python -m loadtests``
tries each outbox policy of the server.
"""

import gevent

from labserver.load import Publisher, WebSocketUser
from labserver.load.run.life import RUN
from labserver.load.users.slow import SlowReader


class SlowRoomPublisher(Publisher):
    """Publishes messages that are big enough to fill a buffer."""

    scenario = "slow_readers"
    label = "healthy"
    fixed_count = 1
    payload_least = 32_768


class HealthyReader(WebSocketUser):
    """Reads what comes, as it comes."""

    scenario = "slow_readers"
    label = "healthy"
    across = True
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


class OscillatingReader(SlowReader):
    """Reads all there is for a second, and nothing in the next, until the end."""

    scenario = "slow_readers"
    label = "oscillating"
    fixed_count = 1
    receive_buffer = 32_768
    phase = 1.0  # seconds

    def converse(self) -> None:
        while not RUN.draining:
            with gevent.Timeout(self.phase, False):
                super().converse()
            gevent.sleep(self.phase)
        super().converse()
