"""A second opinion: a few connections in an otherwise idle process.

A busy generator reads messages late. This process does nothing but read, so its
latencies are the server's. ``--probe`` runs it beside a load, and the summary shows
both. It shares no code with the client that it checks.

A server writes to the members of a room one after the other, so the latency of a member
depends on its place in the room. The probe's connections join at intervals while the
crowd joins, so that they have places all over the room.

    python probe.py URL ROOM SECONDS      token in LAB_TOKEN; ends with its stdin
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

from websockets.asyncio.client import connect

from labserver.contract.plain_json import from_json, to_json
from labserver.load.figures.histogram import Histogram

CONNECTIONS = 20


async def listen(url: str, room: str, after: float, latency: Histogram) -> None:
    """Join a room after ``after`` seconds, and record the latency of its messages."""
    await asyncio.sleep(after)
    headers = {"Authorization": f"Bearer {os.environ['LAB_TOKEN']}"}
    async with connect(
        url, additional_headers=headers, compression=None, max_queue=None
    ) as connection:
        await connection.send(to_json({"type": "join", "room": room}))
        async for text in connection:
            now = time.monotonic_ns()
            message = from_json(text)
            if message["type"] == "message":
                latency.record((now - message["payload"]["due"]) // 1000)


async def probe(url: str, room: str, seconds: float) -> Histogram:
    """Return the latencies of a room's messages, from due time, until stdin ends.

    Args:
        url: Server.
        room: Room.
        seconds: In which the crowd arrives.

    """
    latency = Histogram()
    listening = [
        asyncio.create_task(
            listen(url, room, (number + 0.5) * seconds / CONNECTIONS, latency)
        )
        for number in range(CONNECTIONS)
    ]
    await asyncio.to_thread(sys.stdin.buffer.read)
    for task in listening:
        task.cancel()
    await asyncio.wait(listening)
    return latency


if __name__ == "__main__":
    found = asyncio.run(probe(sys.argv[1], sys.argv[2], float(sys.argv[3])))
    print(json.dumps(found.as_json()), flush=True)
