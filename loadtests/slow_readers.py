"""Slow readers among healthy ones: one stalls, one reads slowly, one alternates.

The question: do healthy readers suffer? And does the server close slow readers, tell
them what they missed, or serve them late? ``python -m loadtests`` tries each outbox
policy of the server.
"""

import gevent

from labserver.load import Publisher, WebSocketUser
from labserver.load.run.life import RUN
from labserver.load.users.slow import SlowReader


class SlowRoomPublisher(Publisher):
    """Publishes messages that are large enough to fill a buffer."""

    scenario = "slow_readers"
    label = "healthy"
    fixed_count = 1
    payload_least = 32_768


class HealthyReader(WebSocketUser):
    """Reads every message at once."""

    scenario = "slow_readers"
    label = "healthy"
    across = True
    weight = 3


class StalledReader(SlowReader):
    """Joins, and does not read again until the run is over."""

    scenario = "slow_readers"
    label = "stalled"
    fixed_count = 1

    def converse(self) -> None:
        RUN.drain_started.wait()
        super().converse()

    def delivered(self, message: object, size: int) -> None:
        """Ignore a message: it waited for the whole run, and has no latency."""


class ThrottledReader(SlowReader):
    """Reads 160 KB a second, a quarter of what it is sent, until the run is over."""

    scenario = "slow_readers"
    label = "throttled"
    fixed_count = 1
    sip = 16_000  # bytes, ten times a second
    receive_buffer = 32_768  # bytes: must hold at least one sip

    def converse(self) -> None:
        while not RUN.draining:
            self.read(None, self.sip)
            gevent.sleep(0.1)
        super().converse()


class OscillatingReader(SlowReader):
    """Reads everything for a second, then nothing for a second, until the end."""

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
