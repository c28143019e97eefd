"""A server on ``websockets`` with its ``broadcast()``, after the library's guides.

https://websockets.readthedocs.io/en/stable/topics/broadcast.html: connections of a room
in a set; ``broadcast()`` writes to all and waits for nobody. Authentication is in
``process_request``, before the upgrade. Dead peers are the keepalive's affair.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import defaultdict
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.http11 import Request, Response
from websockets.typing import Origin

from bench.verdicts.contract import answer, hello, message, refusal, user_of

rooms: dict[str, set[ServerConnection]] = defaultdict(set)


def admit(connection: ServerConnection, request: Request) -> Response | None:
    user = user_of(request.headers, request.path)
    if user is None:
        return connection.respond(HTTPStatus.UNAUTHORIZED, "a token is needed\n")
    connection.username = user
    return None


async def converse(connection: ServerConnection) -> None:
    await connection.send(json.dumps(hello(connection.username)))
    try:
        async for text in connection:
            said = json.loads(text)
            if (found := refusal(said)) is not None:
                await connection.send(json.dumps(found))
                continue
            if said["type"] == "join":
                rooms[said["room"]].add(connection)
            elif said["type"] == "leave":
                rooms[said["room"]].discard(connection)
            elif said["type"] == "publish":
                text = json.dumps(message(said, connection.username))
                broadcast(rooms[said["room"]], text)
            if (found := answer(said)) is not None:
                await connection.send(json.dumps(found))
    finally:
        for members in rooms.values():
            members.discard(connection)


async def main() -> None:
    interval = float(os.environ.get("LAB_HEARTBEAT_INTERVAL", "20"))
    port = int(os.environ["PORT"])
    async with serve(
        *(converse, "127.0.0.1", port),
        process_request=admit,
        origins=[None, Origin(f"http://127.0.0.1:{port}")],
        max_size=65536,
        ping_interval=interval,
        ping_timeout=interval,
    ) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
