"""The wait before the first message: until the crowd of every process is in.

A handshake costs a hundred times as much as a message, so a message that is sent while
members connect would measure the handshakes. With several processes, the master waits
for the crowds of all workers, and then tells them to begin.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

import gevent
from gevent.event import Event
from locust.runners import MasterRunner, WorkerRunner

PACE = 0.002  # seconds between two users that come for the first time
LIMIT = 5.0  # seconds that publishers wait for members that should have joined


class Settling:
    """The wait of one run, as this process sees it.

    Args:
        members: The users of this process.
        workers: Returns the ids of the workers that the master waits for.

    """

    def __init__(
        self, members: Collection[Any], workers: Callable[[], Collection[str]]
    ) -> None:
        self.members, self.workers = members, workers
        self.spawned = Event()  # all users of the run exist
        self.go = Event()  # the master says that all crowds are in
        self.over = Event()  # publishers begin
        self.crowds: set[str] = set()  # ids of the workers whose crowd is in
        self.next = 0.0  # when the next user may come

    def wait(self, runner: Any, arrival: float) -> None:
        """Wait for the crowd, at most 5 seconds longer than it takes to arrive.

        Args:
            runner: Locust's runner of this process.
            arrival: Seconds in which all users are to be started.

        """
        deadline = time.monotonic() + arrival + LIMIT
        self.spawned.wait(arrival + LIMIT)
        is_in = self.crowds_are_in if isinstance(runner, MasterRunner) else self.is_in
        while time.monotonic() < deadline and not is_in():
            gevent.sleep(0.02)
        if isinstance(runner, MasterRunner):
            runner.send_message("lab_go")
        elif isinstance(runner, WorkerRunner):
            runner.send_message("lab_crowd")
            # The master's deadline may be a little later than this one.
            self.go.wait(max(0.0, deadline - time.monotonic()) + 1)

    def turn(self) -> None:
        """Wait until another user may come.

        Locust starts the users of a second at once. If all shook hands at once, the
        publishers of this process would be late for tenths of a second.
        """
        now = time.monotonic()
        self.next = max(now, self.next) + PACE
        gevent.sleep(self.next - PACE - now)

    def is_in(self) -> bool:
        """Return whether all users of this process have joined."""
        return all(member.joined or not member.stays for member in self.members)

    def crowds_are_in(self) -> bool:
        return self.crowds >= set(self.workers())

    def crowd(self, runner: Any, worker: str) -> None:
        """Note that the crowd of a worker is in; one that is late begins at once."""
        self.crowds.add(worker)
        if self.over.is_set():
            runner.send_message("lab_go", client_id=worker)
