"""A parser of incoming frames with a fast path for the most common kind.

Nearly all frames that a load test receives are whole, unmasked messages. These are cut
out here, in a loop without generators. Control frames, fragments and invalid frames go
to :class:`websockets.client.ClientProtocol`, one whole frame at a time, so that it
never holds part of a frame.
"""

from __future__ import annotations

from collections.abc import Callable

from websockets.client import ClientProtocol
from websockets.frames import DATA_OPCODES, Frame

WHOLE = (0x81, 0x82)  # first byte: text or binary, not in fragments, no extension
SIZE_LIMIT = 2**20  # bytes of a message; the protocol refuses larger ones


class Frames:
    """The incoming side of one connection, after its handshake.

    Args:
        protocol: Gets all frames that are not whole messages; it may then have bytes to
            send.

    Attributes:
        control: Called with every ping, pong and close, after its answer is queued.

    """

    __slots__ = ("control", "fragments", "protocol", "rest")

    def __init__(self, protocol: ClientProtocol) -> None:
        self.protocol = protocol
        self.control: Callable[[Frame], None] = lambda frame: None
        self.rest = b""  # the beginning of an incomplete frame
        self.fragments: list[bytes] = []

    def cut(self, data: bytes) -> list[bytes]:
        """Return the messages that ``data`` completes. This is the hot path."""
        if self.rest:
            data = self.rest + data
        messages = []
        start, end = 0, len(data)
        while end - start >= 2:
            first, size, body = data[start], data[start + 1], start + 2
            if size > 127:  # masked, which a server must not send
                self.give(data[start:])
                start = end
                break
            if size > 125:
                body += 2 if size == 126 else 8
                if body > end:
                    break
                size = int.from_bytes(data[start + 2 : body], "big")
                if size > SIZE_LIMIT:
                    self.give(data[start:body])
                    start = end
                    break
            stop = body + size
            if stop > end:
                break
            if first in WHOLE and not self.fragments:
                messages.append(data[body:stop])
            else:
                messages += self.give(data[start:stop])
            start = stop
        self.rest = data[start:]
        return messages

    def give(self, data: bytes) -> list[bytes]:
        """Give a whole frame to the protocol; return the messages that it completes."""
        self.protocol.receive_data(data)
        messages = []
        for event in self.protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode not in DATA_OPCODES:
                self.control(event)
                continue
            self.fragments.append(bytes(event.data))
            if event.fin:
                messages.append(b"".join(self.fragments))
                self.fragments.clear()
        return messages
