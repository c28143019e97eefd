"""Fan-out: one publisher and many subscribers in one room.

The question: how long after a message was due does every subscriber have it, and does
every subscriber get every message?
"""

from labserver.load import Publisher, WebSocketUser


class FanoutPublisher(Publisher):
    """Publishes on schedule, and gets its own messages like all members."""

    scenario = "fanout"
    fixed_count = 1


class FanoutSubscriber(WebSocketUser):
    """Joins and listens."""

    scenario = "fanout"
    weight = 8
