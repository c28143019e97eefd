"""A load that grows in steps, for ``--steps``.

Locust uses the first shape that it finds in any of its files. So this one is in a
module that Locust does not search, and the option sets it.
"""

from __future__ import annotations

from locust import LoadTestShape


class Steps(LoadTestShape):
    """Add users at the beginning of each step, up to a limit; hold it to the end.

    Args:
        users: Users that each step adds.
        seconds: Length of a step.
        most: Limit of users.
        run_time: Seconds until the end.

    """

    abstract = True

    def __init__(self, users: int, seconds: float, most: int, run_time: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.users, self.seconds = users, seconds
        self.most, self.run_time = most, run_time

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users wanted now and the spawn rate; None at the end."""
        elapsed: float = self.get_run_time()  # type: ignore[no-untyped-call]
        if elapsed >= self.run_time:
            return None
        step = int(elapsed / self.seconds) + 1
        return min(self.most, self.users * step), max(1, self.users)
