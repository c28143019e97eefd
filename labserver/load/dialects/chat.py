"""A plain JSON chat, as tutorials have it: ``{"type": ..., "room": ..., "data": ...}``.

Copy this file and change the words to those of your server.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from labserver.load.dialects import Dialect, Heard, entered, heard, refused


class Chat(Dialect):
    """Objects with a ``type``: ``join`` and ``joined``, ``message``, ``error``."""

    def enter(self, room: str, after: Mapping[str, Any] | None) -> Iterable[bytes]:
        yield json.dumps({"type": "join", "room": room}).encode()

    def publish(self, room: str, payload: bytes, ref: int, key: str = "") -> bytes:
        return b'{"type":"message","room":"%b","data":%b}' % (room.encode(), payload)

    def read(self, data: bytes) -> Iterable[Heard]:
        message = json.loads(data)
        match message["type"]:
            case "joined":
                yield entered(message["room"])
            case "message":
                yield heard(message["data"])
            case "error":
                yield refused(str(message))
