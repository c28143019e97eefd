"""A rival on picows: frames in Cython, one send for each member, on uvloop."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

rooms: dict[str, set[WSTransport]] = defaultdict(set)


class Member(WSListener):
    """One connection."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        transport.send(WSMsgType.TEXT, b'{"type":"hello"}')

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        for members in rooms.values():
            members.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            self.serve(transport, json.loads(frame.get_payload_as_bytes()))

    def serve(self, transport: WSTransport, message: dict[str, str]) -> None:
        room = message["room"]
        if message["type"] == "join":
            rooms[room].add(transport)
            answer = json.dumps({"type": "joined", "room": room})
            transport.send(WSMsgType.TEXT, answer.encode())
        elif message["type"] == "publish":
            answer = json.dumps({**message, "type": "message"}, separators=(",", ":"))
            data = answer.encode()
            for member in rooms[room]:
                member.send(WSMsgType.TEXT, data)


async def main() -> None:
    server = await ws_create_server(lambda _: Member(), "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    print(f"listening on ws://127.0.0.1:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
