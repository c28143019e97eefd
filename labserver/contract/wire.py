"""Frames and other bytes for clients, built once and shared by many.

A server's frames are not masked (RFC 6455 section 5.1), so the same bytes may go to
every member of a room. A compressed frame may be shared too when the server promised
to forget its window after each message (RFC 7692 section 7.1.1.1). Over plain HTTP
there are no frames, but events of a stream and items of a JSON array.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)

from labserver.contract.cbor import to_cbor
from labserver.contract.messages import Event

TEXT = 0x81  # FIN set, opcode 1 (RFC 6455 section 5.2)
BINARY = 0x82
COMPRESSED = 0x40  # RSV1 (RFC 7692 section 6)
# A window may be smaller than agreed (RFC 7692 section 7.1.2.1), so two sizes serve
# every client. Each further size would mean compressing every message once more.
WINDOWS = (12, 9)
# Below this a message hardly shrinks: its frame would be about as long.
COMPRESS_FROM = 128

JSON = "lab.json"
CBOR = "lab.cbor"
# The forms for members over HTTP, which no WebSocket speaks.
SSE = "text/event-stream"
ITEMS = "application/json"


class Variant(NamedTuple):
    """How a client wants its frames: subprotocol, and window bits (0: plain)."""

    subprotocol: str = JSON
    window_bits: int = 0


PLAIN = Variant()
STREAM = Variant(SSE)
ARRAY = Variant(ITEMS)


def deflate_offer() -> ServerPerMessageDeflateFactory:
    """Return what the server negotiates: no window outlives a message.

    The sender's frames become shareable and an idle connection keeps no zlib state.
    """
    return ServerPerMessageDeflateFactory(
        server_no_context_takeover=True,
        client_no_context_takeover=True,
        server_max_window_bits=12,
        client_max_window_bits=12,
        compress_settings={"memLevel": 5},
    )


def negotiated(subprotocol: str | None, extensions: Sequence[Any]) -> Variant:
    """Return the variant that a handshake agreed on."""
    for extension in extensions:
        if isinstance(extension, PerMessageDeflate):
            agreed = extension.local_max_window_bits
            bits = next(each for each in WINDOWS if each <= agreed)
            return Variant(subprotocol or JSON, bits)
    return Variant(subprotocol or JSON)


def frame(variant: Variant, text: bytes) -> bytes:
    """Return ``text``, a JSON message, as one complete frame of ``variant``."""
    if variant.subprotocol == SSE:
        return stream_event(text)
    if variant.subprotocol == ITEMS:
        return text + b","
    if variant.subprotocol == CBOR:
        head, data = BINARY, to_cbor(text)
    else:
        head, data = TEXT, text
    if variant.window_bits and len(data) >= COMPRESS_FROM:
        head, data = head | COMPRESSED, _deflate(data, variant.window_bits)
    length = len(data)
    if length < 126:
        return bytes((head, length)) + data
    if length < 65536:
        return bytes((head, 126)) + length.to_bytes(2, "big") + data
    return bytes((head, 127)) + length.to_bytes(8, "big") + data


def item(variant: Variant, event: Event, epoch: str) -> bytes:
    """Return one event of a room as ``variant`` carries it."""
    if variant.subprotocol == SSE and epoch:
        return stream_event(event.json, f"{epoch}:{event.last}")
    return frame(variant, event.json)


def stream_event(text: bytes, id: str = "") -> bytes:
    """Return a message as a server-sent event, named like its type.

    The ``id`` comes back as ``Last-Event-ID`` (WHATWG HTML section 9.2.4).
    """
    start = len(b'{"type":"')
    kind = text[start : text.index(b'"', start)]
    # An end of line would end the field. JSON has them only between its words, where
    # a publisher may put any white space.
    data = text.replace(b"\r", b" ").replace(b"\n", b" ")
    name = b"id: %b\n" % id.encode() if id else b""
    return b"%bevent: %b\ndata: %b\n\n" % (name, kind, data)


def _deflate(data: bytes, window_bits: int) -> bytes:
    encoder = zlib.compressobj(wbits=-window_bits, memLevel=5)
    packed = encoder.compress(data) + encoder.flush(zlib.Z_SYNC_FLUSH)
    return packed[:-4]  # the empty block that RFC 7692 section 7.2.1 says to strip


class Chunk:
    """What a room sends to the members of one variant in one tick.

    Made once and shared by all of them, also by those whose outbox must hold it; so it
    keeps the bytes once, and of the events only which seqs they account for.

    Args:
        room: Name of the room.
        first: The first seq.
        lasts: The last seq of each event; the next event starts after it.
        sizes: The length of each event's frame.
        data: The frames, joined.
        epoch: Names the numbering that the seqs are of, where that is known.

    """

    __slots__ = ("data", "epoch", "first", "lasts", "room", "sizes")

    def __init__(
        self,
        room: str,
        first: int,
        lasts: Sequence[int],
        sizes: Sequence[int],
        data: bytes,
        epoch: str = "",
    ) -> None:
        self.room = room
        self.first = first
        self.lasts = lasts
        self.sizes = sizes
        self.data = data
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.lasts)

    @property
    def last(self) -> int:
        return self.lasts[-1]

    def singles(self) -> Iterator[Chunk]:
        """Yield one chunk for each event."""
        first, start = self.first, 0
        for last, size in zip(self.lasts, self.sizes, strict=True):
            data = self.data[start : start + size]
            yield Chunk(self.room, first, [last], [size], data, self.epoch)
            first, start = last + 1, start + size


def chunk(
    variant: Variant, room: str, events: Sequence[Event], epoch: str = ""
) -> Chunk:
    """Return events, whose seqs follow each other, as what a member is sent."""
    frames = [item(variant, event, epoch) for event in events]
    return Chunk(
        room,
        events[0].first,
        [event.last for event in events],
        [len(each) for each in frames],
        frames[0] if len(frames) == 1 else b"".join(frames),
        epoch,
    )
