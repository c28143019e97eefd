"""A replica that answers a join before Redis has confirmed its subscription.

A program to judge, which is wrong: what is published in between does not arrive.
"""

from __future__ import annotations

import asyncio
import os
import sys

from labserver.__main__ import main
from labserver.stages.broker import RedisBroker

wait = RedisBroker.subscribe
waiting = set[asyncio.Task[None]]()


async def hurry(self: RedisBroker, room: str) -> None:
    waiting.add(asyncio.create_task(wait(self, room)))


if __name__ == "__main__":
    RedisBroker.subscribe = hurry  # type: ignore[method-assign]
    sys.argv[1:] = ["serve", "--stage", "broker", "--port", os.environ["PORT"]]
    main()
