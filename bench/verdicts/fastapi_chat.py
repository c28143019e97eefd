"""A server on FastAPI and uvicorn, after FastAPI's page about WebSockets.

https://fastapi.tiangolo.com/advanced/websockets/: a ``ConnectionManager`` that keeps a
list of connections and awaits ``send_text()`` for one after the other. A stranger gets
Starlette's denial response, before the upgrade. uvicorn pings.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import PlainTextResponse

from bench.verdicts.contract import answer, hello, message, refusal, user_of

app = FastAPI()


class Rooms:
    """What that page calls ``ConnectionManager``, with a list for each room."""

    def __init__(self) -> None:
        self.active: dict[str, list[WebSocket]] = defaultdict(list)

    def connect(self, websocket: WebSocket, room: str) -> None:
        if websocket not in self.active[room]:
            self.active[room].append(websocket)

    def disconnect(self, websocket: WebSocket, room: str) -> None:
        if websocket in self.active[room]:
            self.active[room].remove(websocket)

    async def broadcast(self, text: str, room: str) -> None:
        for connection in self.active[room]:
            await connection.send_text(text)


manager = Rooms()


@app.websocket("/")
async def endpoint(websocket: WebSocket) -> None:
    user = user_of(websocket.headers, str(websocket.url))
    if user is None:
        denial = PlainTextResponse("a token is needed\n", 401)
        return await websocket.send_denial_response(denial)
    await websocket.accept()
    await websocket.send_json(hello(user))
    try:
        while True:
            said = await websocket.receive_json()
            if (found := refusal(said)) is not None:
                await websocket.send_json(found)
                continue
            if said["type"] == "join":
                manager.connect(websocket, said["room"])
            elif said["type"] == "leave":
                manager.disconnect(websocket, said["room"])
            elif said["type"] == "publish":
                text = json.dumps(message(said, user))
                await manager.broadcast(text, said["room"])
            if (found := answer(said)) is not None:
                await websocket.send_text(json.dumps(found))
    except WebSocketDisconnect:
        for room in list(manager.active):
            manager.disconnect(websocket, room)


if __name__ == "__main__":
    interval = float(os.environ.get("LAB_HEARTBEAT_INTERVAL", "20"))
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        ws_max_size=65536,
        ws_ping_interval=interval,
        ws_ping_timeout=interval,
        log_level="warning",
    )
