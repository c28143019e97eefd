"""A WebSocket client for crowds: one file descriptor and one greenlet a connection.

The protocol is :class:`websockets.client.ClientProtocol`, which does no I/O; the socket
is gevent's. What the library's ready-made clients add (threads, locks, queues) costs
more per message than a server needs to send it, and then the client is what one
measures. Side by side with ``websockets.sync`` under gevent (200 connections, 10
broadcasts a second, four times in turn on a busy machine of two cores) a received
message took 0.55 to 0.61 of the processor time: 33 to 41 us against 54 to 74.

It speaks to this machine only: a load generator that can be pointed at anybody is a
weapon. Where that is a set of containers, ``LAB_LOAD_HOSTS`` names the others that it
may speak to, each exactly, and none of them on a public address.
"""

from __future__ import annotations

import ipaddress
import os
import struct
import sys
import time
from urllib.parse import urlsplit, urlunsplit

import gevent
from gevent import socket
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import DATA_OPCODES, Frame
from websockets.http11 import Response
from websockets.protocol import OPEN
from websockets.uri import parse_uri

READ_SIZE = 65536  # bytes
HANDSHAKE_TIMEOUT = 10.0  # seconds

# Linux stamps a segment when it arrives; CPython has no name for the option (its value
# is that of every architecture but sparc and parisc).
SO_TIMESTAMPNS = 35
TIMESPEC = struct.Struct("@ll")
KERNEL_TIME = sys.platform == "linux"
ANCILLARY_SIZE = socket.CMSG_SPACE(TIMESPEC.size) if KERNEL_TIME else 0


class NotThisMachine(Exception):
    """A URL leads elsewhere than to loopback; the message is a sentence."""


class Refused(ConnectionError):
    """The server answered the handshake with something else than an upgrade."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"HTTP {status}: {detail}")
        self.status = status


class Closed(ConnectionError):
    """The conversation is over; code 1006 means that there was no goodbye."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"closed {code} {reason}".rstrip())
        self.code = code


def normal(url: str) -> str:
    """Return ``url`` as a WebSocket URL; ``http`` and ``https`` are taken too.

    Raises:
        ValueError: It is no URL of a server; the message is a sentence.

    """
    try:
        parts = urlsplit(url)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        if scheme != "ws" or not parts.hostname or parts.port == 0:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{shown(url)!r} is not a server's URL: write ws://127.0.0.1:8080"
        ) from None
    return urlunsplit((scheme, parts.netloc, parts.path or "/", parts.query, ""))


def shown(url: str) -> str:
    """Return ``url`` without what might be secret in it."""
    parts = urlsplit(url)
    return urlunsplit(
        (parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")
    )


def resolve(url: str) -> list[tuple[int, tuple[str, int]]]:
    """Return families and addresses of a URL's host, which must be this machine.

    Or a host that ``LAB_LOAD_HOSTS`` (names, comma-separated) allows, on a private
    address.

    Raises:
        NotThisMachine: It is another one.
        OSError: The name is unknown.

    """
    parts = urlsplit(url)
    allowed = os.environ.get("LAB_LOAD_HOSTS", "").lower().split(",")
    named = parts.hostname in [name.strip() for name in allowed]
    places = []
    for family, _, _, _, address in socket.getaddrinfo(
        parts.hostname, parts.port or 80, type=socket.SOCK_STREAM
    ):
        place = address[0].partition("%")[0]
        ip = ipaddress.ip_address(place)
        if not (ip.is_loopback or (named and ip.is_private)):
            known = "" if place == parts.hostname else f" ({place})"
            raise NotThisMachine(
                f"load goes to this machine only, and {parts.hostname}{known} is no "
                "loopback address"
            )
        places.append((family, address))
    return places


class WebSocket:
    """A connection, open as soon as it exists.

    Args:
        url: ``ws://`` address, with path and query.
        token: Sent as ``Authorization: Bearer``.
        receive_buffer: ``SO_RCVBUF`` in bytes, 0 for the kernel's choice. It is set
            before the connection is made: later the window has been announced.

    Attributes:
        arrived: When the data of the last read reached this machine, on the clock of
            ``time.monotonic_ns``. With several segments in one read, the last one's.
        lag: Nanoseconds between that and the read, None where nobody tells.

    """

    def __init__(self, url: str, token: str = "", receive_buffer: int = 0) -> None:
        self.protocol = ClientProtocol(parse_uri(url))
        self.arrived = 0
        self.lag: int | None = None
        self._fragments: list[bytes] = []
        self._early: list[bytes] = []
        self._emptied = False
        self._hub = gevent.get_hub()
        with gevent.Timeout(HANDSHAKE_TIMEOUT, TimeoutError("handshake timed out")):
            self.socket = self._open(url, receive_buffer)
            try:
                self._shake_hands(token)
            except BaseException:
                self.socket.close()
                raise
        self._readable = self._hub.loop.io(self.socket.fileno(), 1)

    def _open(self, url: str, receive_buffer: int) -> socket.socket:
        """Return a connected socket; localhost may be ::1 or 127.0.0.1."""
        places = resolve(url)
        for family, address in places:
            opened = socket.socket(family, socket.SOCK_STREAM)
            try:
                if receive_buffer:
                    opened.setsockopt(
                        socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer
                    )
                opened.connect(address)
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if KERNEL_TIME:
                    opened.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
                return opened
            except BaseException as exc:
                opened.close()
                if not isinstance(exc, OSError) or address == places[-1][1]:
                    raise
        raise OSError(f"{shown(url)} has no address")

    def _shake_hands(self, token: str) -> None:
        request = self.protocol.connect()
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        self.protocol.send_request(request)
        self._flush()
        while self.protocol.state is not OPEN:
            self._feed(READ_SIZE)
            problem = self.protocol.handshake_exc
            if isinstance(problem, InvalidStatus):
                response = problem.response
                body = bytes(response.body or b"").decode(errors="replace").strip()
                raise Refused(response.status_code, body or response.reason_phrase)
            if problem is not None:
                raise Refused(0, str(problem))
            # The hello often shares a segment with the response.
            self._early += self._messages()

    def receive(
        self, timeout: float | None = None, size: int = READ_SIZE
    ) -> list[bytes]:
        """Return the messages of one read; none when nothing came in time.

        Args:
            timeout: Seconds; None waits, 0 only looks.
            size: Bytes to read at most.

        Raises:
            Closed: There will be no more.

        """
        if self._early:
            early, self._early = self._early, []
            return early
        # A read that came back short has emptied the socket: to try again before
        # waiting would cost a system call and an exception for each message.
        if self._emptied and timeout != 0:
            if timeout is None:
                self._hub.wait(self._readable)
            else:
                with gevent.Timeout(timeout, False):
                    self._hub.wait(self._readable)
        self.socket.settimeout(0)
        try:
            self._feed(size)
        except BlockingIOError:
            self._emptied = True
            return []
        messages = self._messages()
        if self.protocol.writes:
            self._flush()
        if not messages and self.protocol.state is not OPEN:
            close = self.protocol.close_rcvd
            raise Closed(close.code, close.reason) if close else Closed(1006)
        return messages

    def send(self, message: bytes) -> None:
        """Send a text message, waiting for the socket to take it."""
        if self.protocol.state is not OPEN:
            close = self.protocol.close_rcvd
            raise Closed(close.code, close.reason) if close else Closed(1006)
        self.protocol.send_text(message)
        self.socket.settimeout(None)
        self._flush()

    def close(self) -> None:
        """Say goodbye without waiting for the answer."""
        try:
            if self.protocol.state is OPEN:
                self.protocol.send_close(1000)
                self.socket.settimeout(0)
                self._flush()
        except OSError:
            pass
        self._readable.close()
        self.socket.close()

    def _feed(self, size: int) -> None:
        """Read once, and let the protocol make of it what it can."""
        try:
            if KERNEL_TIME:
                data, ancillary, _, _ = self.socket.recvmsg(size, ANCILLARY_SIZE)
                now, wall = time.monotonic_ns(), time.time_ns()
                self.arrived, self.lag = now, None
                for _, kind, value in ancillary:
                    if kind == SO_TIMESTAMPNS and len(value) == TIMESPEC.size:
                        seconds, nanoseconds = TIMESPEC.unpack(value)
                        lag = max(0, wall - seconds * 1_000_000_000 - nanoseconds)
                        self.arrived, self.lag = now - lag, lag
            else:
                data = self.socket.recv(size)
                self.arrived = time.monotonic_ns()
        except (ConnectionResetError, BrokenPipeError):
            raise Closed(1006, "connection reset") from None
        self._emptied = len(data) < size
        if data:
            self.protocol.receive_data(data)
        else:
            self.protocol.receive_eof()

    def _messages(self) -> list[bytes]:
        events = self.protocol.events_received()
        messages = []
        for event in events:
            if isinstance(event, Response):
                continue
            assert isinstance(event, Frame)
            if event.opcode not in DATA_OPCODES:
                continue
            if event.fin and not self._fragments:
                messages.append(event.data)
                continue
            self._fragments.append(bytes(event.data))
            if event.fin:
                messages.append(b"".join(self._fragments))
                self._fragments.clear()
        return messages

    def _flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.socket.sendall(data)
