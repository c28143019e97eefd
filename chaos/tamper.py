"""A proxy that drops, doubles or swaps messages of a server, and counts them.

It knows frames and nothing else, and shares no code with the load generator.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

EVERY = 400  # messages between two that are tampered with
MESSAGE = b'"type":"message"'


class Tamper:
    """What is done to messages: ``drop``, ``double`` or ``swap``."""

    def __init__(self, port: int, what: str) -> None:
        self.port, self.what = port, what
        self.seen = self.done = 0

    async def accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        there, to = await asyncio.open_connection("127.0.0.1", self.port)
        up = asyncio.create_task(pass_on(reader, to))
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            writer.write(await there.readuntil(b"\r\n\r\n"))
            held = b""
            while True:
                frame = await read_frame(there)
                out, held = self.tampered(frame, held)
                writer.write(out)
        for each in (to, writer):
            each.close()
        up.cancel()

    def tampered(self, frame: bytes, held: bytes) -> tuple[bytes, bytes]:
        """Return what to send now, and what to send after the next frame."""
        if held or MESSAGE not in frame[:200]:
            return frame + held, b""
        self.seen += 1
        if self.seen % EVERY:
            return frame, b""
        self.done += 1
        if self.what == "swap":
            return b"", frame
        return (frame * 2 if self.what == "double" else b""), b""


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
        writer.write_eof()


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Read a frame of a server, which is not masked (RFC 6455, section 5.2)."""
    head = await reader.readexactly(2)
    size = head[1] & 127
    if size > 125:
        more = await reader.readexactly(2 if size == 126 else 8)
        head, size = head + more, int.from_bytes(more, "big")
    return head + await reader.readexactly(size)


@asynccontextmanager
async def tampering(port: int, what: str) -> AsyncIterator[tuple[str, Tamper]]:
    """Run the proxy; yields its URL and what it counts."""
    tamper = Tamper(port, what)
    server = await asyncio.start_server(tamper.accept, "127.0.0.1", 0)
    try:
        own = server.sockets[0].getsockname()[1]
        yield f"ws://127.0.0.1:{own}", tamper
    finally:
        server.close()
