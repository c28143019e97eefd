"""Join a room, say hello, and print what comes, over all reconnects."""

import asyncio
import contextlib
import logging
import os
import sys
import uuid

from labserver.client import Client

TOKEN = os.environ.get("TOKEN") or sys.exit("set TOKEN to what the server prints")
URL = os.environ.get("URL", "ws://127.0.0.1:8080")


async def main() -> None:
    async with Client(URL, TOKEN) as client:
        await client.join("lobby")
        key = uuid.uuid4().hex  # the same one, if the publish has to be repeated
        await client.publish("lobby", "hello from Python", key)
        async for message in client:
            match message["type"]:
                case "message":
                    print(message["from"], message["payload"], flush=True)
                case "gap":
                    print("missing:", message["from"], "to", message["to"])
                case "joined" if not message["recovered"]:
                    print("joined at", message["seq"])


logging.basicConfig(level=logging.INFO)  # one line for each failed attempt
with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main())
