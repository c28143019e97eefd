"""Long tasks do not end unseen, and do not stay away.

A task that nobody awaits fails without a word. The server goes on and looks well, but
nobody is pinged any more, or nothing that other replicas say arrives.

Here such a task is logged with its traceback, counted, and started again. It starts
again because the clients that are connected have no other heartbeat and no other link:
to stay without one until somebody restarts the process is worse for them. New clients
are sent elsewhere meanwhile, and until the task has lasted for a while.
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
    """How often each task of a server failed, by its name, and when one last did."""

    def __init__(self) -> None:
        super().__init__()
        self.last: tuple[str, float] | None = None

    def note(self, name: Name) -> None:
        """Count one failure. Call it where the exception is handled: it is logged."""
        self[name] += 1
        self.last = name, time.monotonic()
        log.exception("the task %s failed", name)

    def recent(self) -> str | None:
        """Return the name of the task that failed last, or None if that is long ago."""
        if self.last is None or time.monotonic() - self.last[1] > TRUST:
            return None
        return self.last[0]


def keep(
    name: Name, work: Callable[[], Coroutine[Any, Any, None]], failures: Failures
) -> asyncio.Task[None]:
    """Run ``work`` in a task, and again whenever it fails, until it returns.

    Args:
        name: Names the task in the log, in the metrics and in ``/readyz``.
        work: What the task does. It is called again after a failure, so it must not
            rely on what an earlier call left half done.
        failures: Counts them.

    """
    return asyncio.create_task(again(name, work, failures))


async def again(
    name: Name, work: Callable[[], Coroutine[Any, Any, None]], failures: Failures
) -> None:
    """Do what the task of :func:`keep` does, in the task of the caller."""
    while True:
        try:
            return await work()
        except Exception:
            failures.note(name)
        await asyncio.sleep(PAUSE)
