"""Phoenix channels, serializer version 2: ``[join_ref, ref, topic, event, payload]``.

Protocol: https://hexdocs.pm/phoenix/writing_a_channels_client.html. A room is the topic
``room:NAME``. A message is pushed as the event ``new_msg``, to which the channel
replies, and broadcast as the same event.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from labserver.load.dialects import Dialect, Heard, accepted, entered, heard, refused

JOIN = "join"


class Phoenix(Dialect):
    """A socket at ``/socket/websocket``."""

    acknowledges = True
    event = "new_msg"
    # A socket without a heartbeat is closed after a minute.
    keepalive = (30.0, b'[null,"beat","phoenix","heartbeat",{}]')

    def address(self, url: str) -> str:
        return f"{url}/socket/websocket?vsn=2.0.0"

    def enter(self, room: str, after: Mapping[str, Any] | None) -> Iterable[bytes]:
        yield json.dumps([JOIN, JOIN, f"room:{room}", "phx_join", {}]).encode()

    def publish(self, room: str, payload: bytes, ref: int, key: str = "") -> bytes:
        topic, event = room.encode(), self.event.encode()
        return b'["join","%d","room:%b","%b",%b]' % (ref, topic, event, payload)

    def read(self, data: bytes) -> Iterable[Heard]:
        _, ref, topic, event, payload = json.loads(data)
        room = topic.removeprefix("room:")
        if event == self.event:
            yield heard(payload)
        elif event == "phx_reply" and payload["status"] != "ok":
            yield refused(str(payload), int(ref) if ref.isdigit() else None)
        elif event == "phx_reply" and ref == JOIN:
            yield entered(room)
        elif event == "phx_reply" and ref.isdigit():
            yield accepted(room, int(ref))
        elif event in ("phx_error", "phx_close"):
            yield refused(f"{event} {payload}")
