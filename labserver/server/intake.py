"""What a connection takes of what it has read: a few frames at a time.

The library's parser takes all frames that one read brought, up to 256 KB of them: tens
of thousands of tiny ones, or a hundred megabytes once they are inflated. Here it stops
before each frame until there is room for it, and what is left stays as it was sent.
"""

from __future__ import annotations

from collections.abc import Generator

from websockets.frames import CLOSE, Frame
from websockets.protocol import Protocol
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

STEP = 4  # frames that are parsed at a time


class Gate(StreamReader):
    """The parser's source of bytes, which lets it begin ``credit`` frames and no more.

    The parser asks whether the stream has ended before each frame, and only then.
    """

    credit = 0
    shut = False  # whether bytes wait that the parser may not begin

    def at_eof(self) -> Generator[None, None, bool]:
        while True:
            ended = yield from super().at_eof()
            if ended or self.credit > 0:
                self.credit -= 1
                return ended
            self.shut = True
            yield

    def feed_eof(self) -> None:
        self.discard()  # nobody waits for what a peer sent that is gone
        super().feed_eof()


class Lenient(ServerProtocol):
    """The library's protocol, but for a goodbye between the fragments of a message.

    A control frame may stand there (RFC 6455 section 5.4; Autobahn case 7.1.5): it is
    answered with its own code, and not with 1002. Of the other cases of Autobahn, 9.3
    and 9.4 (a message of 4 MB in fragments) end with 1009 by choice: a message may have
    ``message_size_limit`` bytes, in as many fragments as it likes.
    """

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is CLOSE:
            self.current_size = None
        super().recv_frame(frame)


def gated(protocol: Protocol) -> Gate:
    """Put a gate before a protocol's parser, which has already begun to read."""
    protocol.__class__ = Lenient
    protocol.reader.__class__ = Gate
    assert isinstance(protocol.reader, Gate)
    return protocol.reader
