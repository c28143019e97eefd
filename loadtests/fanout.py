"""Fan-out: one publisher, a crowd of subscribers, one room.

The question: how long after a message was due has everybody got it, and does everybody
get it at all?
"""

from labserver.load import Publisher, WebSocketUser


class FanoutPublisher(Publisher):
    """Publishes on schedule, and hears itself like everybody else."""

    scenario = "fanout"
    fixed_count = 1


class FanoutSubscriber(WebSocketUser):
    """Joins and listens."""

    scenario = "fanout"
    weight = 8
