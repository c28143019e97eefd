"""A server to begin with, on ``websockets``: it keeps the promise of stage echo.

Judge it with: labserver judge --stage echo -- python server.py
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from typing import NoReturn

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

SIZE_LIMIT = 65536  # bytes of a message


async def handle(socket: ServerConnection) -> None:
    """Say hello, then send each JSON value back as it came."""
    hello = {"id": uuid.uuid4().hex[:12], "user": "anonymous", "stage": "echo"}
    try:
        await send(socket, "hello", **hello, replica="one", heartbeat=None)
        async for text in socket:
            if isinstance(text, bytes):
                await socket.close(1003, "text only")
                return
            try:
                json.loads(text, parse_constant=refuse)
            except (ValueError, RecursionError):
                await send(socket, "error", code="bad_json", detail="this is not JSON")
            else:
                await socket.send('{"type":"echo","payload":' + text + "}")
    except ConnectionClosed:
        pass  # it just went, or was too large or no UTF-8: the library closed it


async def send(socket: ServerConnection, kind: str, **fields: object) -> None:
    await socket.send(json.dumps({"type": kind, **fields}))


def refuse(name: str) -> NoReturn:
    """NaN and Infinity are Python's, not JSON's."""
    raise ValueError(name)


async def main() -> None:
    port = int(os.environ.get("PORT", "8080"))
    async with serve(handle, "127.0.0.1", port, max_size=SIZE_LIMIT) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
