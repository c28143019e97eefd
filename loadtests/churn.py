"""Churn: connect, join, hear oneself, leave, go; and strangers at the door.

The question: what does a handshake cost, does a room work whose members come and go,
and is everybody refused who should be? A refusal that was due is no failure.
"""

from labserver.load.users.visitor import Stranger, Visitor


class ChurnUser(Visitor):
    """Comes with a good token, twice a second."""

    scenario = "churn"
    label = "visitors"
    weight = 2


class BadTokenUser(Stranger):
    """Comes with a token that is expired, forged, garbage or not there."""

    scenario = "churn"
    label = "strangers"
    fixed_count = 1
