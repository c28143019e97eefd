"""Many quiet clients in one process: they join a room, answer pings, and listen.

    python -m bench.crowd PORT PATH COUNT SOURCE ROOM

They connect from the address SOURCE: each has about 28,000 free ports. What happens is
printed, a word and a time of ``time.monotonic()`` in each line:

    joined TIME   every client is in the room
    told TIME     every client has the next message
    left TIME     every socket is closed; the third word counts the goodbyes
"""

from __future__ import annotations

import base64
import json
import os
import selectors
import socket
import sys
import time
from collections import Counter

OPENING = 64  # handshakes at a time
PING, CLOSE, MESSAGE = 0x89, 0x88, 0x81  # first byte of a server's frame
PONG = bytes((0x8A, 0x80, 0, 0, 0, 0))  # masked with zeros (RFC 6455 section 5.3)


def masked(opcode: int, data: bytes) -> bytes:
    """Return a client's frame of less than 126 bytes."""
    return bytes((0x80 | opcode, 0x80 | len(data), 0, 0, 0, 0)) + data


class Client:
    """One connection.

    Attributes:
        unread: Bytes of a head or a frame that is not complete.
        heard: Messages so far, with the hello and the answer to the join.

    """

    __slots__ = ("heard", "sock", "unread", "upgraded")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.unread = b""
        self.upgraded = False
        self.heard = 0

    def frames(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the frames that are complete with these bytes."""
        data = self.unread + data
        if not self.upgraded:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self.unread = head
                return []
            if b" 101 " not in head.split(b"\r\n")[0]:
                raise SystemExit(f"crowd: {head.decode(errors='replace')}")
            self.upgraded = True
        found = []
        while len(data) >= 2:
            size, start = data[1], 2
            if size == 126 and len(data) >= 4:
                size, start = int.from_bytes(data[2:4], "big"), 4
            if size >= 126 and start == 2 or len(data) < start + size:
                break
            found.append((data[0], data[start : start + size]))
            data = data[start + size :]
        self.unread = data
        return found


class Crowd:
    """All clients of this process."""

    def __init__(self, port: int, path: str, count: int, source: str, room: str):
        self.where, self.path, self.count = ("127.0.0.1", port), path, count
        self.source = source
        said = json.dumps({"type": "join", "room": room}, separators=(",", ":"))
        self.join = masked(1, said.encode())
        self.selector = selectors.DefaultSelector()
        self.begun = self.joined = self.closed = self.goodbyes = 0
        self.told: Counter[int] = Counter()  # by number of the message

    def run(self) -> None:
        """Return when every socket is closed."""
        while self.closed < self.count:
            while self.begun < min(self.count, self.joined + OPENING):
                self.connect()
            for key, _ in self.selector.select():
                self.read(key.data)

    def connect(self) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if hasattr(socket, "IP_BIND_ADDRESS_NO_PORT"):
            # So that the same port may serve two destinations.
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((self.source, 0))
        sock.connect(self.where)
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(
            f"GET {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        sock.setblocking(False)
        self.selector.register(sock, selectors.EVENT_READ, Client(sock))
        self.begun += 1

    def read(self, client: Client) -> None:
        try:
            data = client.sock.recv(65536)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self.selector.unregister(client.sock)
            client.sock.close()
            self.closed += 1
            self.note("left", self.closed)
            return
        for first, payload in client.frames(data):
            if first == PING:
                client.sock.send(PONG)
            elif first == CLOSE:
                self.goodbyes += 1
                client.sock.send(masked(8, payload[:2]))
            elif first == MESSAGE:
                self.hear(client)

    def hear(self, client: Client) -> None:
        """Count a message: first comes the hello, then the answer to the join."""
        client.heard += 1
        if client.heard == 1:
            client.sock.send(self.join)
        elif client.heard == 2:
            self.joined += 1
            self.note("joined", self.joined)
        else:
            self.told[client.heard] += 1
            self.note("told", self.told[client.heard])

    def note(self, word: str, number: int) -> None:
        if number == self.count:
            print(word, time.monotonic(), self.goodbyes, flush=True)


if __name__ == "__main__":
    port, path, count, source, room = sys.argv[1:]
    Crowd(int(port), path, int(count), source, room).run()
