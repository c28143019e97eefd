"""The bytes that a user publishes: one rate over all its connections."""

from __future__ import annotations

import asyncio
import time

from labserver.server.sizes import BytesPerName


async def test_bytes_of_all_connections_of_a_name_count_and_of_others_do_not() -> None:
    limit = BytesPerName()
    limit.rate = limit.buckets.rate = 1_000_000
    limit.buckets.burst = 100_000

    async def publish(name: str) -> None:
        for _ in range(4):
            await limit.take(name, 50_000)

    began = time.monotonic()
    many = asyncio.gather(*(publish("ann") for _ in range(3)))
    await limit.take("bob", 50_000)
    assert not many.done()
    await many
    assert time.monotonic() - began > 0.4  # the last of 600,000 bytes may go into debt
