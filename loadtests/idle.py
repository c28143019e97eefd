"""Idle: a crowd that says nothing and answers heartbeats, and peers that went silent.

The question: what does a connection cost that does nothing, and how long is a peer kept
that is dead? The room hears one message a second, so that what is kept still works. A
server with ``--heartbeat-interval 2`` has an answer within seconds.
"""

from labserver.load import Publisher
from labserver.load.users.quiet import QuietMember, SilentPeer


class IdlePublisher(Publisher):
    """Says something once a second."""

    scenario = "idle"
    label = "members"
    publish_rate = 1.0
    fixed_count = 1


class IdleMember(QuietMember):
    """Is there, and answers pings."""

    scenario = "idle"
    label = "members"
    weight = 4


class DeadPeer(SilentPeer):
    """Joins, and is half-open from then on: it neither reads nor answers."""

    scenario = "idle"
    label = "dead peers"
    fixed_count = 1
