"""A server to begin with, on the standard library: handshake and frames by hand.

It keeps the promise of stage echo (RFC 6455 without extensions). Judge it with:
labserver judge --stage echo -- python server.py
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import uuid
from typing import NoReturn

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
SIZE_LIMIT = 65536  # bytes of a message
HANDSHAKE_TIMEOUT = 10.0  # seconds


class Closed(Exception):
    """The connection has to end, with this code."""


async def handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Answer the request; return whether it was one for a WebSocket."""
    async with asyncio.timeout(HANDSHAKE_TIMEOUT):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    pairs = (line.partition(":") for line in head.split("\r\n")[1:])
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    key = headers.get("sec-websocket-key", "")
    if not key or "websocket" not in headers.get("upgrade", "").lower():
        writer.write(
            b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\n"
            b"Connection: close\r\nContent-Length: 0\r\n\r\n"
        )
        return False
    digest = hashlib.sha1((key + GUID).encode()).digest()
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Accept: "
        + base64.b64encode(digest)
        + b"\r\n\r\n"
    )
    return True


async def read_frame(reader: asyncio.StreamReader) -> tuple[bool, int, bytes]:
    """Return whether a frame is the last of its message, its opcode and its data."""
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if first & 0x70 or not second & 0x80:
        raise Closed(1002)  # an extension that nobody agreed on, or no mask
    if first & 8 and (size > 125 or not first & 0x80):
        raise Closed(1002)  # a control frame is short, and whole
    if size >= 126:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    if size > SIZE_LIMIT:
        raise Closed(1009)
    mask = await reader.readexactly(4)
    data = await reader.readexactly(size)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    plain = int.from_bytes(data, "big") ^ key
    return bool(first & 0x80), first & 15, plain.to_bytes(size, "big")


def write_frame(writer: asyncio.StreamWriter, opcode: int, data: bytes) -> None:
    size = len(data)
    if size < 126:
        head = bytes([size])
    elif size < 65536:
        head = bytes([126]) + size.to_bytes(2, "big")
    else:
        head = bytes([127]) + size.to_bytes(8, "big")
    writer.write(bytes([0x80 | opcode]) + head + data)


async def read_message(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> str:
    """Return the next message; pings between its fragments are answered."""
    parts, size, begun = list[bytes](), 0, False
    while True:
        last, opcode, data = await read_frame(reader)
        if opcode == PING:
            write_frame(writer, PONG, data)
        elif opcode == CLOSE:
            raise Closed(int.from_bytes(data[:2], "big") or 1000)
        elif opcode == BINARY:
            raise Closed(1003)
        elif opcode in (TEXT, CONTINUATION):
            if begun is (opcode == TEXT):
                raise Closed(1002)
            begun, size = True, size + len(data)
            if size > SIZE_LIMIT:
                raise Closed(1009)
            parts.append(data)
            if last:
                try:
                    return b"".join(parts).decode()
                except UnicodeDecodeError:
                    raise Closed(1007) from None
        elif opcode != PONG:
            raise Closed(1002)


def refuse(name: str) -> NoReturn:
    """NaN and Infinity are Python's, not JSON's."""
    raise ValueError(name)


def answer(text: str) -> str:
    """Return the answer to a message."""
    try:
        json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        error = {"type": "error", "code": "bad_json", "detail": "this is not JSON"}
        return json.dumps(error)
    return '{"type":"echo","payload":' + text + "}"


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        if not await handshake(reader, writer):
            return
        about = {
            "id": uuid.uuid4().hex[:12],
            "user": "anonymous",
            "stage": "echo",
            "replica": "one",
        }
        hello = json.dumps({"type": "hello", **about, "heartbeat": None})
        write_frame(writer, TEXT, hello.encode())
        while True:
            text = await read_message(reader, writer)
            write_frame(writer, TEXT, answer(text).encode())
            await writer.drain()
    except Closed as closed:
        write_frame(writer, CLOSE, int(str(closed)).to_bytes(2, "big"))
        await linger(reader, writer)
    except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
        pass  # it just went
    finally:
        writer.close()


async def linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read what still comes, for a moment: a reset would overtake the close frame."""
    with contextlib.suppress(OSError, TimeoutError):
        writer.write_eof()
        async with asyncio.timeout(1):
            while await reader.read(65536):
                pass


async def main() -> None:
    port = int(os.environ.get("PORT", "8080"))
    server = await asyncio.start_server(handle, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
