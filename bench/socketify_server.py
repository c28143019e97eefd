"""A rival on uWebSockets (C++), through socketify: topics, published by the library."""

from __future__ import annotations

import json
from typing import Any

from socketify import App, AppListenOptions, CompressOptions, OpCode, WebSocket

from labserver.processes.ports import free_port

app = App()


def open_(ws: WebSocket) -> None:
    ws.send('{"type":"hello"}', OpCode.TEXT)


def receive(ws: WebSocket, data: str, opcode: OpCode) -> None:
    message = json.loads(data)
    room = message["room"]
    if message["type"] == "join":
        ws.subscribe(room)
        ws.send(json.dumps({"type": "joined", "room": room}), OpCode.TEXT)
    elif message["type"] == "publish":
        text = json.dumps({**message, "type": "message"}, separators=(",", ":"))
        # From the application: a socket's own publish() skips the socket.
        app.publish(room, text, OpCode.TEXT)


def listening(options: Any) -> None:
    print(f"listening on ws://127.0.0.1:{options.port}", flush=True)


def main() -> None:
    app.ws(
        "/*",
        {
            "compression": CompressOptions.DISABLED,
            "max_payload_length": 65536,
            "idle_timeout": 120,
            "max_backpressure": 1 << 20,
            "open": open_,
            "message": receive,
        },
    )
    # socketify takes port 0 for its default.
    app.listen(AppListenOptions(port=free_port(), host="127.0.0.1"), listening)
    app.run()


if __name__ == "__main__":
    main()
