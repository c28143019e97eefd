"""Long tasks do not fail unseen, and are started again.

Without this, a task that nobody awaits fails without a word. The server goes on and
looks well, but no client is pinged any more, or no message of other replicas arrives.

How: a failed task is logged with its traceback, counted, and started again. The clients
that are connected have no other heartbeat and no other link, so it would be worse for
them to wait until somebody restarts the process. Until the task has run for a while
again, the server is not ready: new clients go to other replicas.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Literal, get_args

log = logging.getLogger("labserver")

PAUSE = 1.0  # seconds until a task that failed starts again
TRUST = 5.0  # seconds without another failure until the server counts as ready

Name = Literal[
    "commands",
    "heartbeat",
    "lag",
    "link",
    "memory",
    "nodes",
    "presence",
    "probe",
    "redis",
    "tending",
    "web",
]
NAMES: tuple[Name, ...] = get_args(Name)


class Failures(Counter[str]):
    """Counts the failures of a server's tasks by name, and knows the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.last: tuple[str, float] | None = None

    def note(self, name: Name) -> None:
        """Count and log a failure. Call it in the handler of the exception."""
        self[name] += 1
        self.last = name, time.monotonic()
        log.exception("the task %s failed", name)

    def recent(self) -> str | None:
        """Return the last task that failed; None if it failed over ``TRUST`` s ago."""
        if self.last is None or time.monotonic() - self.last[1] > TRUST:
            return None
        return self.last[0]


def keep(
    name: Name, work: Callable[[], Coroutine[Any, Any, None]], failures: Failures
) -> asyncio.Task[None]:
    """Run ``work`` in a task, and again whenever it fails, until it returns.

    Args:
        name: Name of the task in the log, in the metrics and in ``/readyz``.
        work: Called to make the task's coroutine. It is called again after a failure,
            so it must work with the state that a failed call left behind.
        failures: Counts the failures.

    Returns:
        The task.

    """
    return asyncio.create_task(again(name, work, failures))


async def again(
    name: Name, work: Callable[[], Coroutine[Any, Any, None]], failures: Failures
) -> None:
    """Await ``work``, and again whenever it fails, until it returns."""
    while True:
        try:
            return await work()
        except Exception:
            failures.note(name)
        await asyncio.sleep(PAUSE)
