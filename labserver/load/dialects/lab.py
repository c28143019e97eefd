"""The wire contract of the lab: numbers, acknowledgements, cursors, gaps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from labserver.contract.messages import Ack, Error, Gap, Hello, Joined, Left, Pong
from labserver.load.dialects import Delivery, Dialect, Heard, Other
from labserver.load.run.options import token


class Numbered(msgspec.Struct):
    """A message with any payload."""

    type: str
    seq: int = 0


decode = msgspec.json.Decoder(
    Delivery | Joined | Ack | Error | Gap | Hello | Left | Pong
).decode
decode_number = msgspec.json.Decoder(Numbered).decode
encode = msgspec.json.encode


class Lab(Dialect):
    """The language of the lab's servers, and of all that keep its contract."""

    greets = acknowledges = numbered = True

    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {token(self.user)}"}

    def enter(self, room: str, after: Mapping[str, Any] | None) -> Iterable[bytes]:
        message: dict[str, Any] = {"type": "join", "room": room, "ref": "join"}
        return [encode(message | ({"after": after} if after else {}))]

    def leave(self, room: str) -> Iterable[bytes]:
        return [encode({"type": "leave", "room": room, "ref": "leave"})]

    def publish(self, room: str, payload: bytes, ref: int, key: str = "") -> bytes:
        more = b',"key":"%b"' % key.encode() if key else b""
        return b'{"type":"publish","room":"%b","ref":%d,"payload":%b%b}' % (
            room.encode(),
            ref,
            payload,
            more,
        )

    def read(self, data: bytes) -> Sequence[Heard]:
        try:
            return (decode(data),)
        except msgspec.ValidationError:
            message = decode_number(data)
            return (Other(message.seq),) if message.type == "message" else ()
