"""Servers of a chapter: processes of their own, stopped whatever happens to the cell.

A server inside the kernel would freeze with every cell that computes, and its numbers
would be the notebook's.
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

# Nobody in a chapter waits for the goodbye of a peer that is silent on purpose.
DRAIN_TIMEOUT = 0.5
TICK = 0.2  # seconds in which an interrupt is noticed

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
    """Run a server of a stage on a free port, for as long as the block lasts.

    Args:
        stage: Last stage.
        without: Stages to leave out.
        mistake: A well-known mistake to make.
        settings: As in :class:`labserver.settings.Settings`, such as
            ``heartbeat_interval=0.5``.

    Raises:
        SettingsError: A setting's name is unknown.
        NotListening: The server did not start; the message is what it said.

    """
    # What is stored with a chapter should not name the machine.
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
    """Have processes ended by an interrupt of the cell and by a restart of the kernel.

    A restart ends the kernel without unwinding the cell, so the pids are noted. An
    interrupt reaches the cell with the next event of the kernel's loop (ipykernel's
    handler adds a callback, which does not wake a loop that sleeps): one is provided.
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
            os.kill(pid, signal.SIGCONT)  # a frozen one must hear it, too
