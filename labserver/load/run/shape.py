"""A load that grows in steps, for those who ask for it with ``--steps``.

Locust runs the first shape that it finds in any file, whether one wants it or not: this
one stands where Locust does not look, and is put in place by an option.
"""

from __future__ import annotations

from locust import LoadTestShape


class Steps(LoadTestShape):
    """Add users at the beginning of each step, up to a most; then hold, then end.

    Args:
        users: Users that a step adds.
        seconds: Length of a step.
        most: Users.
        run_time: Seconds until the end.

    """

    abstract = True

    def __init__(self, users: int, seconds: float, most: int, run_time: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.users, self.seconds = users, seconds
        self.most, self.run_time = most, run_time

    def tick(self) -> tuple[int, float] | None:
        """Return users and spawn rate of this moment, None at the end."""
        elapsed: float = self.get_run_time()  # type: ignore[no-untyped-call]
        if elapsed >= self.run_time:
            return None
        step = int(elapsed / self.seconds) + 1
        return min(self.most, self.users * step), max(1, self.users)
