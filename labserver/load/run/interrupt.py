"""Ctrl-C, for a process of Locust.

Python raises KeyboardInterrupt in the greenlet that happens to run. That is often a
user, which then dies in the middle of a message, and the message is missing. This
handler raises it in the main greenlet, which ends the run in order.
"""

from __future__ import annotations

import os
import signal
import sys

import gevent


class Interrupt:
    """Handles SIGINT.

    Args:
        spared: How many signals to ignore first, because the master handles them.

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
    """Return whether the user started this worker, not a master with children."""
    return "--worker" in sys.argv or "LOCUST_MODE_WORKER" in os.environ
