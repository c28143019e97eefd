"""A second opinion on a load test that shares no code with the generator.

    python onlooker.py PORT ROOM CONNECTIONS     token in LAB_TOKEN; ends with its stdin

It joins the room of a load test on some plain sockets, does nothing but read, and
prints the percentiles of what it saw as JSON: milliseconds from the time at which a
message was due, and from the time at which it was sent.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Iterator

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
EMPTY_MASK = bytes(4)
SO_TIMESTAMPNS = 35  # of Linux


def join(port: int, room: str) -> tuple[socket.socket, bytearray]:
    """Return a member's socket, and what it got beyond the handshake."""
    member = socket.create_connection(("127.0.0.1", port), timeout=10)
    member.sendall(
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {KEY}\r\n"
        f"Authorization: Bearer {os.environ['LAB_TOKEN']}\r\n\r\n".encode()
    )
    text = json.dumps({"type": "join", "room": room}).encode()
    member.sendall(bytes((0x81, 0x80 | len(text))) + EMPTY_MASK + text)
    member.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    data = bytearray()
    while b"\r\n\r\n" not in data:
        data += member.recv(65536)
    del data[: data.index(b"\r\n\r\n") + 4]
    return member, data


def read(member: socket.socket) -> tuple[bytes, int]:
    """Return bytes, and when they arrived on the clock ``time.monotonic_ns``.

    Linux says when the newest segment arrived, so a late read makes nothing slower.
    """
    more, ancillary, _, _ = member.recvmsg(65536, 64)
    clock, now = time.time_ns(), time.monotonic_ns()
    for _, kind, stamp in ancillary:
        if kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("@ll", stamp)
            return more, now - (clock - (seconds * 10**9 + nanoseconds))
    return more, now


def frames(data: bytearray) -> Iterator[tuple[int, bytes]]:
    """Take all complete frames from ``data``: opcode and payload."""
    while len(data) >= 2:
        size, body = data[1], 2
        if size > 125:
            body += 2 if size == 126 else 8
            size = int.from_bytes(data[2:body], "big")
        if len(data) < body + size:
            return
        yield data[0] & 15, bytes(data[body : body + size])
        del data[: body + size]


def look(port: int, room: str, count: int) -> dict[str, list[float]]:
    """Return, from due and from sent, milliseconds of each message, sorted."""
    found: dict[str, list[float]] = {"due": [], "sent": []}
    ready = selectors.DefaultSelector()
    ready.register(sys.stdin.buffer, selectors.EVENT_READ)
    for _ in range(count):
        member, data = join(port, room)
        ready.register(member, selectors.EVENT_READ, data)
    while True:
        for key, _ in ready.select():
            if key.data is None:
                return {name: sorted(each) for name, each in found.items()}
            member, data = key.fileobj, key.data
            assert isinstance(member, socket.socket)
            more, now = read(member)
            if not more:
                ready.unregister(member)
            data += more
            for opcode, payload in frames(data):
                if opcode == 9:
                    head = bytes((0x8A, 0x80 | len(payload)))
                    member.sendall(head + EMPTY_MASK + payload)
                if opcode != 1:
                    continue
                message = json.loads(payload)
                if message["type"] == "message":
                    for name, each in found.items():
                        each.append((now - message["payload"][name]) / 1e6)


if __name__ == "__main__":
    seen = look(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    said = {"count": len(seen["due"])}
    for name, values in seen.items():
        for percent in (50, 99, 100):
            place = max(1, -(-len(values) * percent // 100)) - 1
            said[f"{name} p{percent}"] = round(values[place], 3) if values else None
    print(json.dumps(said))
