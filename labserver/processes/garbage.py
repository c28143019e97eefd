"""The garbage collector never stops the server for long.

Without this, Python's collector searches everything that lives, each time that it has
grown by a quarter. That takes 20 to 30 us a connection: 3 s with 100,000.

How: reference counting frees what a connection leaves, since it has no cycles (a test
counts). What the start has made is frozen, so it is not searched again. Young objects
are searched a few thousand at a time. Everything is searched only while that is
expected to take less than the limit.

Limits: above that size, a cycle that has outlived two searches of young objects stays.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from labserver.server.metrics import Histogram

# Searches of the youngest objects, before the next older ones are searched with them.
SHARE = 4
COST = 500e-9  # seconds for each object at most, where the processor's cache is full
NEVER = 2**31 - 1


class Collections:
    """Observes each collection, and decides whether the next one may be a full one.

    Args:
        limit: Seconds that a collection may take.
        pauses: Gets the seconds of each collection.

    """

    def __init__(self, limit: float, pauses: Histogram) -> None:
        self.limit = limit
        self.pauses = pauses
        self.young = max(500, round(limit / COST / (SHARE + 2)))
        self.cost = COST  # seconds of a full collection for each block of memory
        self.frozen = sys.getallocatedblocks()
        self.started = 0.0
        self.allow_full()

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self.started = time.perf_counter()
            return
        took = time.perf_counter() - self.started
        self.pauses.observe(took)
        if info["generation"] == 2:
            self.cost = took / max(1, self.blocks())
        if info["generation"] > 0:
            self.allow_full()

    def blocks(self) -> int:
        """Return the blocks of memory that a full collection would search."""
        return sys.getallocatedblocks() - self.frozen

    def allow_full(self) -> None:
        """Let Python decide on full collections while they are short."""
        short = self.blocks() * self.cost < self.limit
        gc.set_threshold(self.young, SHARE, 1 if short else NEVER)


@contextmanager
def short_collections(limit: float, pauses: Histogram) -> Iterator[None]:
    """Keep collections short in the block, in this whole process.

    Args:
        limit: Seconds that a collection may take; 0 leaves Python's collector as it is.
        pauses: Gets the seconds of each collection.

    """
    if not limit:
        yield
        return
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    collections = Collections(limit, pauses)
    gc.callbacks.append(collections)
    try:
        yield
    finally:
        gc.callbacks.remove(collections)
        gc.set_threshold(*before)
        gc.unfreeze()
