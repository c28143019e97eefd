"""Locust's own table: its row "Aggregated" has the times of messages only.

Locust adds up the times of all rows, and a mean of handshakes, acknowledgements and
messages is a time of nothing. So all else is counted there without a time.
"""

from __future__ import annotations

from typing import Any

from locust import events
from locust.env import Environment

from labserver.load.run.hooks import listens

MESSAGE = "message"  # begins the name of a row, after the scenario


@listens(events.init)
def separate(environment: Environment, **_: Any) -> None:
    stats: Any = environment.stats

    def log_request(method: str, name: str, took: int | None, size: int) -> None:
        is_message = name.partition(": ")[2].startswith(MESSAGE)
        stats.total.log(took if is_message else None, size)
        stats.entries[(name, method)].log(took, size)

    stats.log_request = log_request
