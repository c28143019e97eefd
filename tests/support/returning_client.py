"""The lab's client as a program to judge: right, or with the mistake that is named."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import Any

from labserver.client import Backoff, Client, Rejected
from labserver.mistakes import MISTAKES


async def main() -> None:
    wrong = sys.argv[1] if sys.argv[1:] else ""
    make: Any = MISTAKES[wrong].client if wrong in MISTAKES else Client
    client = make(os.environ["LAB_URL"], os.environ["LAB_TOKEN"])
    backoff: Backoff = client.backoff
    backoff.first = float(os.environ["LAB_BACKOFF_FIRST"])
    backoff.cap = float(os.environ["LAB_BACKOFF_CAP"])
    with contextlib.suppress(Rejected):
        async with client:
            await client.join(os.environ["LAB_ROOM"])
            async for _ in client:
                if wrong == "forgets-cursors":
                    client.cursors[os.environ["LAB_ROOM"]] = None
    await asyncio.Event().wait()  # it stays away, and alive


if __name__ == "__main__":
    asyncio.run(main())
