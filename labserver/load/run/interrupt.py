"""Ctrl-C, for a process of Locust.

Python raises it in whatever greenlet runs: as often as not in a user, which dies in the
middle of a message that is then missing. It is the main greenlet that knows what to do.
"""

from __future__ import annotations

import os
import signal
import sys

import gevent


class Interrupt:
    """Handles SIGINT.

    Args:
        spared: How many times it is for somebody else.

    """

    def __init__(self, spared: int = 0) -> None:
        self.spared = spared
        gevent.signal_handler(signal.SIGINT, self)

    def __call__(self) -> None:
        if self.spared:
            self.spared -= 1
        else:
            gevent.get_hub().handle_system_error(KeyboardInterrupt, None)


def told_to_work() -> bool:
    """Return whether this was started as a worker, and not made one by its master."""
    return "--worker" in sys.argv or "LOCUST_MODE_WORKER" in os.environ
