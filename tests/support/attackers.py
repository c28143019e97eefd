"""Clients that cost a server as much as they can, within or beyond its limits.

They run in a process of their own, so that a measurement of the server does not include
them::

    python attackers.py URL TOKEN KIND COUNT SECONDS

They send as fast as the server reads, read its answers, and reconnect when the server
closes them. They stop by themselves.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import socket
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from labserver.processes.cluster import Replica

TEXT, BINARY, PING, CLOSE = 0x81, 0x82, 0x89, 0x88
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
CBOR = "Sec-WebSocket-Protocol: lab.cbor\r\n"


def frame(first: int, data: bytes) -> bytes:
    """Return a client's frame, masked with zeros."""
    size = len(data)
    if size < 126:
        return bytes((first, 0x80 | size, 0, 0, 0, 0)) + data
    return bytes((first, 0xFE)) + size.to_bytes(2, "big") + bytes(4) + data


def bomb() -> bytes:
    """Return a frame of about 100 bytes that inflates to nearly 64 KB."""
    encoder = zlib.compressobj(wbits=-12)
    text = json.dumps({"type": "ping", "filler": " " * 65_000}).encode()
    packed = encoder.compress(text) + encoder.flush(zlib.Z_SYNC_FLUSH)
    return frame(TEXT | 0x40, packed[:-4])


def publish(payload: str, room: str = "attacked") -> bytes:
    text = '{"type":"publish","room":"%s","payload":%s}' % (room, payload)  # noqa: UP031
    return frame(TEXT, text.encode())


def cbor_maps(count: int) -> bytes:
    """Return an ``echo`` in CBOR: its payload is an array of empty maps."""
    head = b"\xa2\x64type\x64echo\x67payload\x99" + count.to_bytes(2, "big")
    return frame(BINARY, head + b"\xa0" * count)


ROWS = json.dumps([{"n": number, "text": "words here"} for number in range(1600)])

# By kind: a function that makes the message, and the headers that it needs.
KINDS: dict[str, tuple[Callable[[], bytes], str]] = {
    "bombs": (bomb, DEFLATE),
    "pings": (lambda: frame(PING, b""), ""),
    "crumbs": (lambda: frame(TEXT, b"1"), ""),
    "messages": (lambda: frame(TEXT, b'{"type":"ping"}'), ""),
    "maps": (lambda: cbor_maps(65_000), CBOR),
    "most maps": (lambda: cbor_maps(4000), CBOR),
    "arrays": (lambda: publish("[" + "[]," * 21_000 + "[]]"), ""),
    "most arrays": (lambda: publish("[" + "[]," * 4000 + "[]]"), ""),
    "rows": (lambda: publish(ROWS), ""),
    "spaces": (lambda: publish("[" + "0, " * 8000 + "0]"), ""),
    "big": (lambda: publish('"' + "0123456789abcdef" * 4000 + '"'), ""),
}


def connected(url: str, token: str, headers: str) -> socket.socket:
    parts = urlsplit(url)
    assert parts.hostname == "127.0.0.1"
    assert parts.port is not None
    sock = socket.create_connection((parts.hostname, parts.port), timeout=5)
    sock.sendall(
        f"GET /?token={token} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n".encode()
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        if not (more := sock.recv(4096)):
            raise OSError("no handshake")
        answer += more
    sock.setblocking(False)
    return sock


def attack(url: str, token: str, kind: str, count: int, seconds: float) -> int:
    """Send a kind of message from ``count`` connections for some seconds.

    Returns:
        Bytes that the server read.

    """
    make, headers = KINDS[kind]
    message = make()
    data = message * max(1, 65_536 // len(message))
    chooser = selectors.DefaultSelector()
    both = selectors.EVENT_READ | selectors.EVENT_WRITE
    sent = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        while len(chooser.get_map()) < count:
            try:
                chooser.register(connected(url, token, headers), both, memoryview(b""))
            except OSError:
                time.sleep(0.05)
                break
        for key, events in chooser.select(0.1):
            sock, left = key.fileobj, key.data
            assert isinstance(sock, socket.socket)
            try:
                if events & selectors.EVENT_READ and not sock.recv(2**20):
                    raise ConnectionResetError
                if events & selectors.EVENT_WRITE:
                    done = sock.send(left := left or memoryview(data))
                    sent += done
                    chooser.modify(sock, both, left[done:])
            except BlockingIOError:
                pass
            except OSError:
                chooser.unregister(sock)
                sock.close()
    return sent


@asynccontextmanager
async def attacked(server: Replica, kind: str, count: int) -> AsyncIterator[None]:
    """Attack a server during the block, for ten seconds at most."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__),
        *(server.url, server.token("mallory"), kind, str(count), "10"),
    )
    try:
        yield
    finally:
        process.kill()
        await process.wait()


if __name__ == "__main__":
    url, token, kind, count, seconds = sys.argv[1:]
    print(attack(url, token, kind, int(count), float(seconds)))
