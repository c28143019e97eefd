"""A client on a bare socket: it sends any frame, answers no ping, and may stop reading.

A well-behaved library would answer pings and read ahead by itself, and so hide what a
peer is that does neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, cast
from urllib.parse import urlsplit

from labserver.contract.tokens import issue
from labserver.judge.evidence import TEXT_LIMIT, note
from labserver.judge.outcomes import Broken
from labserver.judge.peers import (
    PATIENCE,
    Served,
    address_of,
    secret_of,
    understood,
)

# Opcodes (RFC 6455 section 5.2)
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NAMES = {TEXT: "text", BINARY: "binary", CLOSE: "close", PING: "ping", PONG: "pong"}
FRAME_LIMIT = 2**24  # bytes of one frame of a server
PAUSE = 0.02  # seconds between the pieces of a frame
SMALL = 16384  # bytes that the kernel keeps for a peer that does not read


class Raw:
    """A WebSocket without manners."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str
    ) -> None:
        self.reader, self.writer, self.name = reader, writer, name
        self.taken = 0  # bytes, by ended()
        self.goodbye = False  # whether a close frame was among them

    @property
    def transport(self) -> asyncio.Transport:
        return cast(asyncio.Transport, self.writer.transport)

    def frame(self, opcode: int, data: bytes = b"", fin: bool = True) -> None:
        """Send a frame, masked with zeros, so that its data is plain."""
        self.writer.write(self._bytes(opcode, data, fin))

    async def in_pieces(self, opcode: int, data: bytes) -> None:
        """Send a frame in three pieces: it is cut in its head, and in its data."""
        whole = self._bytes(opcode, data, fin=True)
        cuts = (0, 1, len(whole) - len(data) // 2, len(whole))
        for start, end in pairwise(cuts):
            self.writer.write(whole[start:end])
            await asyncio.sleep(PAUSE)  # or TCP may join them again

    def _bytes(self, opcode: int, data: bytes, fin: bool) -> bytes:
        size = len(data)
        if size < 126:
            head = bytes([0x80 | size])
        elif size < 65536:
            head = b"\xfe" + size.to_bytes(2, "big")
        else:
            head = b"\xff" + size.to_bytes(8, "big")
        more = "" if fin else ", more follows"
        note(self.name, "sent", _shown(opcode, data) + more)
        return bytes([fin << 7 | opcode]) + head + bytes(4) + data

    def say(self, **message: Any) -> None:
        self.frame(TEXT, json.dumps(message).encode())

    async def receive(self) -> tuple[int, bytes]:
        """Return the next frame's opcode and data.

        Raises:
            Broken: It comes too late, or is masked, or too large.
            EOFError: The connection ended.

        """
        try:
            async with asyncio.timeout(PATIENCE):
                first, second = await self.reader.readexactly(2)
                size = second & 0x7F
                if size >= 126:
                    more = await self.reader.readexactly(2 if size == 126 else 8)
                    size = int.from_bytes(more, "big")
                if second & 0x80 or size > FRAME_LIMIT:
                    raise Broken("sent a frame that is masked, or has over 16 MiB")
                data = await self.reader.readexactly(size)
        except TimeoutError:
            raise Broken(f"waited {PATIENCE:g} s in vain for a frame") from None
        except ConnectionError:
            raise EOFError from None
        note(self.name, "received", _shown(first & 15, data))
        return first & 15, data

    async def message(self) -> dict[str, Any]:
        """Return the next message; pings are answered on the way."""
        while True:
            opcode, data = await self.receive()
            if opcode == PING:
                self.frame(PONG, data)
            elif opcode == CLOSE:
                raise Broken(f"closed with {int.from_bytes(data[:2], 'big')}")
            elif opcode != PONG:
                return understood(data)

    async def join(self, room: str) -> None:
        self.say(type="join", room=room)
        while (await self.message())["type"] != "joined":
            pass

    def sleep(self) -> None:
        """Stop reading: from here on only the kernel takes what comes."""
        note(self.name, "did", "stopped reading")
        self.transport.pause_reading()

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):
            self.transport.resume_reading()

    async def ended(self, quiet: float = 1.5, limit: float = 10.0) -> bool:
        """Read what is left; return whether the server has ended the connection.

        What a server sent before it ended the connection comes first. One that has not
        falls silent instead, as nothing is said to it here.

        Args:
            quiet: Seconds without a byte that mean that no end comes.
            limit: Seconds altogether.

        """
        self.wake()
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(limit):
                while data := await asyncio.wait_for(self.reader.read(2**16), quiet):
                    self.taken += len(data)
                    self.goodbye |= CLOSE in _opcodes(data)
            note(self.name, "received", "the end of the connection")
            return True
        return self.reader.exception() is not None

    async def over(self) -> None:
        self.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


def _opcodes(data: bytes) -> set[int]:
    """Return the opcodes of short frames; what begins in mid-frame says nothing."""
    found, at = set(), 0
    while at + 1 < len(data) and data[at] & 0x80 and data[at + 1] < 126:
        found.add(data[at] & 15)
        at += 2 + data[at + 1]
    return found


def _shown(opcode: int, data: bytes) -> str:
    if opcode == CLOSE and len(data) >= 2:
        code = int.from_bytes(data[:2], "big")
        return f"close {code} {data[2:].decode(errors='replace')}".rstrip()
    text = data[: 8 * TEXT_LIMIT].decode(errors="replace")
    return text if opcode == TEXT else f"{NAMES.get(opcode, 'continuation')} {text!r}"


@asynccontextmanager
async def raw(
    server: Served, user: str = "sloth", small: bool = False
) -> AsyncIterator[Raw]:
    """Connect with a good token, and read the hello; end it at once afterwards.

    Args:
        server: To which server.
        user: Name in the token.
        small: Whether the kernel shall keep little of what is not read.

    """
    host, port = address_of(server)
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setblocking(False)
    if small:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=SMALL)
    except BaseException:
        sock.close()
        raise
    client = Raw(reader, writer, user)
    try:
        path = urlsplit(server.url).path or "/"
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {where}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            f"Authorization: Bearer {issue(secret_of(server), user)}",
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        async with asyncio.timeout(PATIENCE):
            head = await reader.readuntil(b"\r\n\r\n")
        status = head.split(b"\r\n", 1)[0].decode("latin-1")
        if b" 101" not in status.encode():
            raise Broken(f"a handshake with a good token was answered {status[:60]!r}")
        note(user, "opened", "a connection")
        await client.message()
        yield client
    finally:
        await client.over()
