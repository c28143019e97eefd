"""A chat server that is not the lab's: no numbers, no acknowledgements, no tokens.

It speaks the words of ``labserver.load.dialects.chat``. Its argument is the number of a
message that it does wrong, and what: ``drop``, ``double`` or ``swap``.
"""

from __future__ import annotations

import asyncio
import json
import sys

from websockets.asyncio.server import ServerConnection, broadcast, serve

members: dict[str, set[ServerConnection]] = {}


async def main(what: str, number: int) -> None:
    published, held = 0, ""

    async def chat(client: ServerConnection) -> None:
        nonlocal published, held
        async for data in client:
            text = str(data)
            message = json.loads(text)
            room = members.setdefault(message["room"], set())
            if message["type"] == "join":
                room.add(client)
                await client.send(json.dumps({**message, "type": "joined"}))
                continue
            published += 1
            texts = [text]
            if published == number:
                texts = {"drop": [], "double": texts * 2, "swap": []}.get(what, texts)
                held = text
            elif published == number + 1 and what == "swap":
                texts.append(held)
            for each in texts:
                broadcast(room, each)

    async with serve(chat, "127.0.0.1", 0, ping_interval=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
