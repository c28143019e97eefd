"""Centrifugo's bidirectional JSON protocol, with recovery by offset and epoch.

Protocol: https://centrifugal.dev/docs/transports/client_protocol. The channel needs
``allow_subscribe_for_client`` and ``allow_publish_for_client``, and for recovery a
history and ``force_recovery``. Without a history its messages have no offset. Derive a
class with ``numbered = False`` for such a channel.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from labserver.contract.messages import Ack, Joined
from labserver.load.dialects import Dialect, Heard, Reply, heard, ready, refused

CONNECT, SUBSCRIBE, FIRST = 1, 2, 3  # ids of commands; publishes come after them


class Centrifugo(Dialect):
    """A connection that is named by ``LAB_TOKEN``, or anonymous."""

    greets = acknowledges = numbered = True
    room = ""

    def address(self, url: str) -> str:
        return f"{url}/connection/websocket"

    def opened(self) -> Iterable[bytes]:
        token = os.environ.get("LAB_TOKEN", "")
        connect = {"token": token} if token else {}
        yield json.dumps({"id": CONNECT, "connect": connect}).encode()

    def enter(self, room: str, after: Mapping[str, Any] | None) -> Iterable[bytes]:
        self.room = room
        subscribe: dict[str, Any] = {"channel": room}
        if after:
            offset = {"epoch": after["epoch"], "offset": after["seq"]}
            subscribe |= {"recover": True, **offset}
        yield json.dumps({"id": SUBSCRIBE, "subscribe": subscribe}).encode()

    def publish(self, room: str, payload: bytes, ref: int, key: str = "") -> bytes:
        return b'{"id":%d,"publish":{"channel":"%b","data":%b}}' % (
            ref + FIRST,
            room.encode(),
            payload,
        )

    def read(self, data: bytes) -> Iterable[Heard]:
        for line in data.splitlines():
            said: dict[str, Any] = json.loads(line)
            number = said.get("id", 0)
            if not said:
                yield Reply(b"{}")  # a ping
            elif "error" in said:
                text = str(said["error"])
                yield refused(text, number - FIRST if number >= FIRST else None)
            elif "connect" in said:
                yield ready()
            elif number == SUBSCRIBE:
                found = said["subscribe"]
                missed = found.get("publications", [])
                seq, epoch = found.get("offset", 0), found.get("epoch", "")
                yield Joined(self.room, epoch, seq, found.get("recovered", False))
                for each in missed:
                    yield heard(each["data"], each.get("offset", 0))
            elif number >= FIRST:
                yield Ack(self.room, 0, number - FIRST)
            elif publication := said.get("push", {}).get("pub"):
                yield heard(publication["data"], publication.get("offset", 0))
