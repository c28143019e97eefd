"""Loads that change during a run: in steps (``--steps``), or by a table (``--shape``).

Locust uses the first shape that it finds in any of its files. So these are in a module
that Locust does not search, and the options set them. Locust asks a shape once a second
for the number of users, and for the rate at which users are started or stopped.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from locust import LoadTestShape

ROWS_LIMIT = 10_000


class Stage(NamedTuple):
    """A row of a table.

    Args:
        seconds: When it begins, from the start of the run.
        users: Users wanted from then on.
        rate: Users that are started or stopped a second.

    """

    seconds: float
    users: int
    rate: float


def read_stages(path: Path, users_limit: int, time_limit: float) -> list[Stage]:
    """Read a CSV file with the columns ``seconds``, ``users`` and ``rate``.

    Raises:
        ValueError: It is no such table; the message is a sentence.
        OSError: It cannot be read.

    """
    stages: list[Stage] = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file, skipinitialspace=True, strict=True)
        try:
            names = [each.strip() for each in table.fieldnames or ()]
            if sorted(names) != ["rate", "seconds", "users"]:
                raise ValueError("its first line must be: seconds,users,rate")
            table.fieldnames = names
            for row in table:
                where = f"line {table.line_num}"
                stages.append(stage(row, where, users_limit, time_limit))
                if len(stages) > ROWS_LIMIT:
                    raise ValueError(f"it has more than {ROWS_LIMIT:,} lines")
                if len(stages) == 1 and stages[0].seconds:
                    raise ValueError(f"{where}: the first stage begins at 0 seconds")
                if len(stages) > 1 and stages[-1].seconds <= stages[-2].seconds:
                    raise ValueError(f"{where}: its seconds are not after those before")
        except UnicodeDecodeError:
            raise ValueError("it is not a text file") from None
        except csv.Error as exc:
            raise ValueError(f"it is not a CSV file: {exc}") from None
    if len(stages) < 2:
        raise ValueError("it needs two lines at least: the last one is the end")
    return stages


def stage(
    row: dict[str, str], where: str, users_limit: int, time_limit: float
) -> Stage:
    """Return the stage of a row; raises ValueError with a sentence."""
    try:
        found = Stage(float(row["seconds"]), int(row["users"]), float(row["rate"]))
    except (TypeError, ValueError):
        raise ValueError(f"{where} must have three numbers") from None
    if not 0 <= found.seconds <= time_limit:
        raise ValueError(f"{where}: seconds must be from 0 to {time_limit:g}")
    if not 0 <= found.users <= users_limit:
        raise ValueError(f"{where}: users must be from 0 to {users_limit}")
    if not 0.1 <= found.rate <= users_limit:
        raise ValueError(f"{where}: rate must be from 0.1 to {users_limit}")
    return found


class Table(LoadTestShape):
    """Go through the stages of a table.

    Args:
        stages: The stages; the first begins at 0.
        run_time: Seconds until the end.

    """

    abstract = True

    def __init__(self, stages: Sequence[Stage], run_time: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stages, self.run_time = stages, run_time

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users wanted now and the spawn rate; None at the end."""
        elapsed: float = self.get_run_time()  # type: ignore[no-untyped-call]
        if elapsed >= self.run_time:
            return None
        now = [each for each in self.stages if each.seconds <= elapsed][-1]
        return now.users, now.rate


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
