"""Socket.IO version 5 over Engine.IO version 4, by WebSocket only.

Protocol: https://socket.io/docs/v4/socket-io-protocol/. Rooms are the application's in
Socket.IO. This dialect emits ``join`` with the room's name, and ``publish`` with room
and payload. It expects an acknowledgement of both, and the event ``message`` with the
payload. Derive a class for other events.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from labserver.load.dialects import (
    Dialect,
    Heard,
    Reply,
    accepted,
    entered,
    heard,
    ready,
    refused,
)

JOIN = 0  # number of the acknowledgement that answers a join


class SocketIO(Dialect):
    """One namespace, the default one."""

    greets = acknowledges = True
    room = ""

    def address(self, url: str) -> str:
        return f"{url}/socket.io/?EIO=4&transport=websocket"

    def enter(self, room: str, after: Mapping[str, Any] | None) -> Iterable[bytes]:
        self.room = room
        yield b"42%d%b" % (JOIN, json.dumps(["join", room]).encode())

    def publish(self, room: str, payload: bytes, ref: int, key: str = "") -> bytes:
        return b'42%d["publish","%b",%b]' % (ref, room.encode(), payload)

    def read(self, data: bytes) -> Iterable[Heard]:
        kind = data[:2]
        if data[:1] == b"0":  # Engine.IO: open; connect to the namespace
            yield Reply(b"40")
        elif data[:1] == b"2":  # ping
            yield Reply(b"3")
        elif kind == b"40":
            yield ready()
        elif kind == b"42":
            event, payload, *_ = json.loads(data[2:])
            if event == "message":
                yield heard(payload)
        elif kind == b"43":
            ref = int(data[2:].partition(b"[")[0])
            yield accepted(self.room, ref) if ref != JOIN else entered(self.room)
        elif kind == b"44":
            yield refused(data[2:].decode())
