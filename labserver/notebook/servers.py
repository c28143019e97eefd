"""Servers of a chapter: separate processes, stopped whatever happens to the cell.

A server inside the kernel would freeze during every cell that computes, and its metrics
would be those of the whole kernel.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any

from labserver.errors import SettingsError
from labserver.processes import cluster
from labserver.processes.cluster import Cluster, Replica
from labserver.settings import Settings, flag

# Short, because some peers of a chapter never answer the close frame on purpose.
DRAIN_TIMEOUT = 0.5
TICK = 0.2  # seconds until an interrupt is noticed, at most

_FLAGS = {each.name: flag(each) for each in fields(Settings) if each.name != "secret"}
_running: set[int] = set()


@asynccontextmanager
async def running(
    stage: str = "resume",
    *,
    without: Collection[str] = (),
    mistake: str = "",
    **settings: Any,
) -> AsyncIterator[Replica]:
    """Run a server of a stage on a free port until the block ends.

    Args:
        stage: Last stage.
        without: Stages to leave out.
        mistake: Name of a well-known mistake to make; ``""`` for none.
        settings: As in :class:`labserver.settings.Settings`, such as
            ``heartbeat_interval=0.5``.

    Raises:
        SettingsError: A setting's name is unknown.
        NotListening: The server did not start; the message is its output.

    """
    # By default the replica's name is the machine's, and would be stored with a
    # chapter.
    arguments = _arguments(without, {"replica": "replica-1", **settings})
    arguments += ["--mistake", mistake] if mistake else []
    replica = cluster.running_replica(stage, *arguments)
    async with replica as server, _interruptible([server]):
        yield server


@asynccontextmanager
async def running_cluster(
    count: int = 2,
    stage: str = "resume",
    *,
    without: Collection[str] = (),
    mistake: str = "",
    **settings: Any,
) -> AsyncIterator[Cluster]:
    """Run replicas of a stage on one embedded Redis; see :func:`running`."""
    arguments = _arguments(without, settings)
    arguments += ["--mistake", mistake] if mistake else []
    replicas = cluster.running_cluster(count, stage, *arguments)
    async with replicas as servers, _interruptible(servers.replicas):
        yield servers


def _arguments(without: Collection[str], settings: dict[str, Any]) -> list[str]:
    arguments = []
    for name in without:
        arguments += ["--without", name]
    for name, value in {"drain_timeout": DRAIN_TIMEOUT, **settings}.items():
        if name not in _FLAGS:
            raise SettingsError(f"there is no setting {name!r}")
        arguments += [_FLAGS[name], str(value)]
    return arguments


@asynccontextmanager
async def _interruptible(replicas: list[Replica]) -> AsyncIterator[None]:
    """Make sure that an interrupt of the cell or a restart of the kernel ends
    processes.

    A restart ends the kernel without unwinding the cell, so the pids are kept and
    signalled at exit. An interrupt reaches the cell only at the next event of the
    kernel's loop, because ipykernel's handler adds a callback that does not wake a
    sleeping loop; a task that wakes up regularly provides such events.
    """
    pids = {replica.pid for replica in replicas}
    _running.update(pids)
    awake = asyncio.create_task(_tick())
    try:
        yield
    finally:
        awake.cancel()
        _running.difference_update(pids)


async def _tick() -> None:
    while True:  # noqa: ASYNC110 (it waits for nothing but time)
        await asyncio.sleep(TICK)


@atexit.register
def _end() -> None:
    for pid in _running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGCONT)  # a stopped process must get the signal, too
