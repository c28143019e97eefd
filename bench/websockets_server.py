"""Rivals on bare ``websockets``: its own broadcast, or one ``await send()`` a member.

Run as ``python websockets_server.py broadcast`` or ``... await-send``. All options are
the library's defaults, such as its keepalive and a compressor for each connection.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable

import websockets
from websockets.asyncio.server import ServerConnection, broadcast, serve

Send = Callable[[set[ServerConnection], str], Awaitable[None]]


async def at_once(members: set[ServerConnection], text: str) -> None:
    broadcast(members, text)


async def one_by_one(members: set[ServerConnection], text: str) -> None:
    # A copy, because a member may leave during the await.
    for member in list(members):
        await member.send(text)


async def main(send: Send) -> None:
    rooms: dict[str, set[ServerConnection]] = defaultdict(set)

    async def converse(connection: ServerConnection) -> None:
        await connection.send('{"type":"hello"}')
        try:
            async for text in connection:
                message = json.loads(text)
                room = message["room"]
                if message["type"] == "join":
                    rooms[room].add(connection)
                    await connection.send(json.dumps({"type": "joined", "room": room}))
                elif message["type"] == "publish":
                    answer = {**message, "type": "message"}
                    await send(rooms[room], json.dumps(answer, separators=(",", ":")))
        except websockets.ConnectionClosed:
            pass
        finally:
            for members in rooms.values():
                members.discard(connection)

    async with serve(converse, "127.0.0.1", 0, backlog=4096) as server:
        port = server.sockets[0].getsockname()[1]
        print(f"listening on ws://127.0.0.1:{port}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main({"broadcast": at_once, "await-send": one_by_one}[sys.argv[1]]))
