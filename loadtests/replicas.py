"""Replicas: readers on every server of a cluster, one publisher on the first.

The question: what does the way through the broker cost, compared with a reader on the
publisher's own replica? With one server it degrades to a fan-out.
"""

import itertools

from _user import AcrossReplicas, LabUser, Publisher


class ReplicaPublisher(AcrossReplicas, Publisher):
    """Publishes through the first server."""

    scenario = "replicas"
    fixed_count = 1
    turns = itertools.count()


class ReplicaReader(AcrossReplicas, LabUser):
    """Listens on the server whose turn it is."""

    scenario = "replicas"
    weight = 4
    turns = itertools.count()
