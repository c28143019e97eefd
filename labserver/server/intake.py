"""Limits how many frames of one read a connection parses at a time.

The library's parser parses all frames that one read brought, up to 256 KB: tens of
thousands of tiny messages, or a hundred megabytes after they are inflated. Here the
parser stops before each frame until the connection can take it. The remaining bytes
wait as they were sent.
"""

from __future__ import annotations

from collections.abc import Generator

from websockets.frames import Frame
from websockets.streams import StreamReader

HEAD_LIMIT = 16384  # bytes of a handshake, as on the HTTP port
STEP = 4  # frames that are parsed at a time, if they may inflate
QUEUE = 16 + STEP  # messages that wait to be served; the library pauses above 16


class Gate(StreamReader):
    """The parser's source of bytes, which lets it begin at most ``credit`` frames.

    This works because the parser calls ``at_eof`` before each frame, and only then.
    """

    credit = 0  # frames that the parser may begin
    shut = False  # whether the parser waits for credit
    between = False  # whether it waits for the first byte of a frame

    def at_eof(self) -> Generator[None, None, bool]:
        while not self.buffer or self.credit <= 0:
            if self.eof:
                return True
            self.shut = bool(self.buffer)
            self.between = not self.shut
            yield
        self.between = False
        self.credit -= 1
        return False

    def feed_eof(self) -> None:
        self.discard()  # the peer is gone: nobody waits for its last bytes
        super().feed_eof()


class Head:
    """The head of a request, kept up to its limit."""

    __slots__ = ("left", "start")

    def __init__(self) -> None:
        self.start = b""  # first bytes of the request: its method
        self.left = HEAD_LIMIT  # bytes that the head may still have

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """Split ``data`` into bytes that may belong to the head, and the rest."""
        self.start = self.start or data[:8]
        part, rest = data[: self.left], data[self.left :]
        self.left -= len(part)
        return part, rest


class Fragments:
    """Joins the fragments of a message, as bytes.

    The library would keep each fragment as a frame object of 150 bytes, also an empty
    one.
    """

    __slots__ = ("finished", "part")

    def __init__(self) -> None:
        self.finished = 0  # messages that have arrived completely
        self.part: Frame | None = None  # the fragments of the next message so far

    @property
    def size(self) -> int:
        """Bytes of the unfinished message so far."""
        return 0 if self.part is None else len(self.part.data)

    def add(self, frame: Frame) -> Frame | None:
        """Add a frame; return the whole message as one frame, or None if unfinished."""
        if self.part is None and frame.fin:
            self.finished += 1
            return frame
        if self.part is None:
            self.part = Frame(frame.opcode, bytearray(frame.data))
        else:
            self.part.data += frame.data  # type: ignore[operator]
        if not frame.fin:
            return None
        whole, self.part = self.part, None
        self.finished += 1
        return whole
