"""What was published by the end of a run, told to all of its processes.

A process that has heard nothing for a while cannot know whether a publisher in another
process has sent its last message. So each worker tells the master the newest number of
each room when its own publishers are done, and the master tells all workers the newest
of all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from gevent.event import Event

LIMIT = 6.0  # seconds that a worker waits for the others


class Tops:
    """The newest numbers, by room and epoch, as one process knows them."""

    def __init__(self) -> None:
        self.newest: dict[str, int] = {}
        self.told: set[str] = set()  # workers that have told theirs, in the master
        self.complete = Event()

    def reached(self, tops: Mapping[str, int]) -> None:
        for place, seq in tops.items():
            self.newest[place] = max(seq, self.newest.get(place, 0))

    # A worker

    def share(self, runner: Any, mine: Mapping[str, int]) -> dict[str, int]:
        """Tell the master the numbers of this worker; return those of all."""
        runner.send_message("lab_tops", dict(mine))
        self.complete.wait(LIMIT)
        return self.newest

    def hear(self, tops: Mapping[str, int]) -> None:
        self.reached(tops)
        self.complete.set()

    # The master

    def tell(self, runner: Any, awaited: Collection[str]) -> None:
        """Tell all workers the newest numbers, once all that are alive have told."""
        if self.told.issuperset(awaited) and not self.complete.is_set():
            self.complete.set()
            runner.send_message("lab_tops", self.newest)
