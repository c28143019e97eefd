"""Bounds the bytes that a user publishes, over all its connections."""

from __future__ import annotations

import asyncio
import time

from labserver.server.limits import BucketPerName


class BytesPerName:
    """Bytes a second of each name; more of them have to wait.

    Redis keeps published messages for a replica that stands still, and cuts it off at
    32 MB. In three seconds, after which its link counts as dead, one user publishes
    less than that.
    """

    rate = 2**23
    burst = 2**21
    small = 256  # bytes of a message that costs more to serve than to carry

    def __init__(self) -> None:
        self.buckets = BucketPerName(self.rate, self.burst)

    async def take(self, name: str, size: int) -> None:
        """Wait until ``name`` may publish, and count ``size`` bytes."""
        if size <= self.small:
            return
        bucket = self.buckets.of(name, time.monotonic())
        assert bucket is not None  # there is a rate
        while bucket.level <= 0.0:
            await asyncio.sleep(max(0.01, -bucket.level / self.rate))
            bucket.refill(time.monotonic())
        bucket.level -= size
