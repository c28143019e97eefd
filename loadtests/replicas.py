"""Replicas: readers on every server of a cluster, one publisher on the first.

The question: how much latency does a message to another replica have, compared with one
to the publisher's own replica? With one server it is a plain fan-out. With ``--fault``
a server is killed or Redis is paused half-way, and the question is what clients notice.
"""

from labserver.load import Publisher, WebSocketUser
from labserver.load.dialects import Delivery


class ReplicaPublisher(Publisher):
    """Publishes through the first server."""

    scenario = "replicas"
    label = "members"
    across = True
    fixed_count = 1

    def delivered(self, message: Delivery, size: int) -> None:
        self.latency = self.record.histogram(f"{self.scenario}/{self.side(message)}")
        super().delivered(message, size)

    def came_back(self, microseconds: int) -> None:
        self.outage(microseconds)


class ReplicaReader(WebSocketUser):
    """Listens; readers are spread over all servers in turn."""

    scenario = "replicas"
    label = "members"
    across = True
    weight = 4

    def delivered(self, message: Delivery, size: int) -> None:
        self.latency = self.record.histogram(f"{self.scenario}/{self.side(message)}")
        super().delivered(message, size)

    def came_back(self, microseconds: int) -> None:
        self.outage(microseconds)
