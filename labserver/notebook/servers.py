"""Servers of a chapter: processes of their own, stopped whatever happens to the cell.

A server inside the kernel would freeze with every cell that computes, and its numbers
would be the notebook's.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields
from typing import Any

from labserver import cluster
from labserver.cluster import Cluster, Replica
from labserver.errors import SettingsError
from labserver.settings import Settings, flag

# Nobody in a chapter waits for the goodbye of a peer that is silent on purpose.
DRAIN_TIMEOUT = 0.5

_FLAGS = {each.name: flag(each) for each in fields(Settings) if each.name != "secret"}
_running: set[int] = set()


@asynccontextmanager
async def running(
    stage: str = "resume", *, without: Collection[str] = (), **settings: Any
) -> AsyncIterator[Replica]:
    """Run a server of a stage on a free port, for as long as the block lasts.

    Args:
        stage: Last stage.
        without: Stages to leave out.
        settings: As in :class:`labserver.settings.Settings`, such as
            ``heartbeat_interval=0.5``.

    Raises:
        SettingsError: A setting's name is unknown.
        ReplicaFailed: The server did not start; the message is what it said.

    """
    arguments = _arguments(without, settings)
    async with cluster.running_replica(stage, *arguments) as replica:
        with _ended_with_the_kernel([replica]):
            yield replica


@asynccontextmanager
async def running_cluster(
    count: int = 2,
    stage: str = "resume",
    *,
    without: Collection[str] = (),
    **settings: Any,
) -> AsyncIterator[Cluster]:
    """Run replicas of a stage on one embedded Redis; see :func:`running`."""
    arguments = _arguments(without, settings)
    async with cluster.running_cluster(count, stage, *arguments) as replicas:
        with _ended_with_the_kernel(replicas.replicas):
            yield replicas


def _arguments(without: Collection[str], settings: dict[str, Any]) -> list[str]:
    arguments = []
    for name in without:
        arguments += ["--without", name]
    for name, value in {"drain_timeout": DRAIN_TIMEOUT, **settings}.items():
        if name not in _FLAGS:
            raise SettingsError(f"there is no setting {name!r}")
        arguments += [_FLAGS[name], str(value)]
    return arguments


@contextmanager
def _ended_with_the_kernel(replicas: list[Replica]) -> Iterator[None]:
    """Note processes that a kernel restarted in the middle of a cell must end."""
    pids = {replica.pid for replica in replicas}
    _running.update(pids)
    try:
        yield
    finally:
        _running.difference_update(pids)


@atexit.register
def _end() -> None:
    for pid in _running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
