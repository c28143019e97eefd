"""Idle: members that only answer heartbeats, and peers that have gone silent.

The question: how much memory does an idle connection take, and how long does the server
keep a dead peer? The room gets one message a second, to check that idle connections
still work. With ``--heartbeat-interval 2`` a server notices dead peers within seconds.
"""

from labserver.load import Publisher
from labserver.load.users.quiet import QuietMember, SilentPeer


class IdlePublisher(Publisher):
    """Publishes once a second."""

    scenario = "idle"
    label = "members"
    publish_rate = 1.0
    fixed_count = 1


class IdleMember(QuietMember):
    """Stays connected, and answers pings."""

    scenario = "idle"
    label = "members"
    weight = 4


class DeadPeer(SilentPeer):
    """Joins, and then neither reads nor answers, like a half-open connection."""

    scenario = "idle"
    label = "dead peers"
    fixed_count = 1
