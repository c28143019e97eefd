"""A rival on FastAPI and uvicorn: what most Python users would take.

Rooms are the ``ConnectionManager`` of https://fastapi.tiangolo.com/advanced/websockets/:
it awaits ``send_text()`` for one connection after the other.
"""

from __future__ import annotations

import json
from collections import defaultdict

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

app = FastAPI()
rooms: dict[str, set[WebSocket]] = defaultdict(set)


@app.websocket("/")
async def endpoint(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text('{"type":"hello"}')
    try:
        while True:
            message = await websocket.receive_json()
            room = message["room"]
            if message["type"] == "join":
                rooms[room].add(websocket)
                await websocket.send_json({"type": "joined", "room": room})
            elif message["type"] == "publish":
                text = json.dumps({**message, "type": "message"}, separators=(",", ":"))
                for member in list(rooms[room]):
                    await member.send_text(text)
    except WebSocketDisconnect:
        for members in rooms.values():
            members.discard(websocket)


class Announced(uvicorn.Server):
    """Prints its URL when it listens."""

    async def startup(self, *args: object, **kwargs: object) -> None:
        await super().startup(*args, **kwargs)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(f"listening on ws://127.0.0.1:{port}", flush=True)


if __name__ == "__main__":
    Announced(
        uvicorn.Config(app, host="127.0.0.1", port=0, backlog=4096, log_level="warning")
    ).run()
