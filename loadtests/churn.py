"""Churn: clients that connect, join, publish, leave and disconnect; and bad tokens.

The question: what does a handshake cost, does a room work while members come and go,
and does the server refuse every bad token? A refused bad token is not a failure.
"""

from labserver.load.users.visitor import Stranger, Visitor


class ChurnUser(Visitor):
    """Visits a room with a good token, twice a second."""

    scenario = "churn"
    label = "visitors"
    weight = 2


class BadTokenUser(Stranger):
    """Tries tokens that are expired, forged, garbage or missing."""

    scenario = "churn"
    label = "strangers"
    fixed_count = 1
