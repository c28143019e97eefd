"""Limits how many frames of one read a connection parses at a time.

The library's parser parses all frames that one read brought, up to 256 KB: tens of
thousands of tiny messages, or a hundred megabytes after they are inflated. Here the
parser stops before each frame until the connection can take it. The remaining bytes
wait as they were sent.
"""

from __future__ import annotations

from collections.abc import Generator

from websockets.frames import CLOSE, Frame
from websockets.protocol import Protocol
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

STEP = 4  # frames that are parsed at a time


class Gate(StreamReader):
    """The parser's source of bytes, which lets it begin at most ``credit`` frames.

    This works because the parser calls ``at_eof`` before each frame, and only then.
    """

    credit = 0  # frames that the parser may begin
    shut = False  # whether the parser waits for credit

    def at_eof(self) -> Generator[None, None, bool]:
        while True:
            ended = yield from super().at_eof()
            if ended or self.credit > 0:
                self.credit -= 1
                return ended
            self.shut = True
            yield

    def feed_eof(self) -> None:
        self.discard()  # the peer is gone: nobody waits for its last bytes
        super().feed_eof()


class Lenient(ServerProtocol):
    """The library's protocol, which also accepts a close frame between fragments.

    A control frame may come between the fragments of a message (RFC 6455 section 5.4;
    Autobahn case 7.1.5). A close frame there is answered with its own code, not with
    1002. The Autobahn cases 9.3 and 9.4 (a message of 4 MB in fragments) end with 1009
    on purpose: a message may have ``message_size_limit`` bytes, in any number of
    fragments.
    """

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is CLOSE:
            self.current_size = None
        super().recv_frame(frame)


def gated(protocol: Protocol) -> Gate:
    """Put a gate before a protocol's parser, and return the gate.

    The parser has already begun to read, so the classes of existing objects change.
    """
    protocol.__class__ = Lenient
    protocol.reader.__class__ = Gate
    assert isinstance(protocol.reader, Gate)
    return protocol.reader
