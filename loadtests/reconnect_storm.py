"""Reconnect storm: all clients lose their connections at once, and reconnect.

The question: how high is the peak of new connections, how long until 99 % are back, and
what have they missed? Half of the clients wait with full jitter. The other half double
their delay without jitter, as many clients do, so that all wait equally long. By
default the clients cut their own connections. In a run of this scenario alone,
``--fault kill-replica`` kills their server.
"""

from labserver.load import Publisher
from labserver.load.users.storm import StormMember


class StormPublisher(Publisher):
    """Publishes all the time, so that an absent client misses messages."""

    scenario = "reconnect_storm"
    label = "publisher"
    across = True
    fixed_count = 1


class JitterMember(StormMember):
    """Reconnects after a random part of a ceiling that doubles."""

    scenario = "reconnect_storm"
    label = "with jitter"
    weight = 2


class NoJitterMember(StormMember):
    """Reconnects after the whole ceiling, at the same moments as all of this class."""

    scenario = "reconnect_storm"
    label = "without jitter"
    weight = 2
    jitter = False
