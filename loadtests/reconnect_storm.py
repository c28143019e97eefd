"""Reconnect storm: everybody loses the connection at once, and comes back.

The question: how hard is the server hit, how long until 99 % are back, and what have
they missed? One crowd waits with full jitter, the other as many clients do: it doubles
its delay, and everybody's is the same. By default the clients cut their connections
themselves; in a run of this scenario alone ``--fault kill-replica`` kills their server.
"""

from labserver.load import Publisher
from labserver.load.users.storm import StormMember


class StormPublisher(Publisher):
    """Publishes all the time, so that there is something to miss."""

    scenario = "reconnect_storm"
    label = "publisher"
    across = True
    fixed_count = 1


class JitterMember(StormMember):
    """Comes back after a random part of a ceiling that doubles."""

    scenario = "reconnect_storm"
    label = "with jitter"
    weight = 2


class NoJitterMember(StormMember):
    """Comes back after the ceiling itself, like everybody of its kind."""

    scenario = "reconnect_storm"
    label = "without jitter"
    weight = 2
    jitter = False
