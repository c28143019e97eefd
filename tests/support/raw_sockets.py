"""A WebSocket client on a raw socket, which can send any bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from labserver.contract.tokens import issue
from labserver.server.server import LabServer
from tests.conftest import DEADLINE, SECRET

# Frames (RFC 6455 section 5.2)
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def masked(opcode: int, data: bytes = b"", fin: bool = True, rsv: int = 0) -> bytes:
    """Return a client's frame; its mask is all zeros, so that the data is plain."""
    head = bytes([fin << 7 | rsv << 4 | opcode])
    if len(data) < 126:
        size = bytes([0x80 | len(data)])
    elif len(data) < 65536:
        size = b"\xfe" + len(data).to_bytes(2, "big")
    else:
        size = b"\xff" + len(data).to_bytes(8, "big")
    return head + size + bytes(4) + data


def said(**message: Any) -> bytes:
    return masked(TEXT, json.dumps(message).encode())


def upgrade(path: str = "/", *headers: str, method: str = "GET") -> bytes:
    """Return a handshake; given headers replace default headers of the same name."""
    fields = {
        "host": "Host: 127.0.0.1",
        "upgrade": "Upgrade: websocket",
        "connection": "Connection: Upgrade",
        "sec-websocket-key": "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        "sec-websocket-version": "Sec-WebSocket-Version: 13",
    }
    for header in headers:
        fields.pop(header.partition(":")[0].lower(), None)
    lines = [f"{method} {path} HTTP/1.1", *fields.values(), *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def bearer(token: str | None = None) -> str:
    return f"Authorization: Bearer {token or issue(SECRET, 'ann')}"


class Raw:
    """A socket that sends and reads for a test."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader, self.writer = reader, writer
        self.status = 0
        self.headers: dict[str, str] = {}

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> int:
        """Read the head of an HTTP response; return its status."""
        async with asyncio.timeout(DEADLINE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        self.status = int(first.split()[1])
        assert first.startswith("HTTP/1.1 ")
        for line in lines:
            name, _, value = line.partition(":")
            assert name.lower() not in self.headers, f"{name} twice"
            self.headers[name.lower()] = value.strip()
        return self.status

    async def rest(self) -> bytes:
        """Read until the server closes the connection."""
        async with asyncio.timeout(DEADLINE):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    async def frame(self) -> tuple[int, bytes]:
        """Read one frame of the server; return its first byte and its data."""
        async with asyncio.timeout(DEADLINE):
            head, size = await self.reader.readexactly(2)
            assert not size & 0x80, "a server does not mask"
            if size == 126:
                size = int.from_bytes(await self.reader.readexactly(2), "big")
            elif size == 127:
                size = int.from_bytes(await self.reader.readexactly(8), "big")
            return head, await self.reader.readexactly(size)

    async def message(self) -> dict[str, Any]:
        head, data = await self.frame()
        assert head == 0x80 | TEXT
        return json.loads(data)

    async def close_code(self) -> int:
        """Read to the close frame, answer it, and read on to the end.

        Returns:
            The code of the close frame; 1006 if there was none.

        """
        code = 1006
        try:
            while True:
                head, data = await self.frame()
                if head & 0x0F == CLOSE:
                    code = int.from_bytes(data[:2], "big")
                    data[2:].decode()
                    self.send(masked(CLOSE, data[:2]))
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return code


@asynccontextmanager
async def raw(server: LabServer | int, data: bytes = b"") -> AsyncIterator[Raw]:
    """Connect, and send some bytes."""
    port = server if isinstance(server, int) else server.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def raw_peer(
    server: LabServer | int, *headers: str, path: str = "/"
) -> AsyncIterator[Raw]:
    """Connect, shake hands, and read the hello."""
    async with raw(server, upgrade(path, bearer(), *headers)) as socket:
        assert await socket.head() == 101
        await socket.frame()
        yield socket
