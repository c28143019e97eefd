"""A WebSocket client for crowds: one file descriptor and one greenlet a connection.

The protocol is the one of ``websockets``, which does no I/O
(:mod:`labserver.load.frames` has a fast path). The socket is a plain one, and gevent's
loop says when to read it. The library's complete clients add threads, locks and queues.
These cost more for each message than a server needs to send it, so a test would measure
the client.

It connects to this machine only, because a load generator that can be pointed at any
server is a weapon. For containers, ``LAB_LOAD_HOSTS`` names further hosts that it may
connect to, each by its exact name and only on a private address.
"""

from __future__ import annotations

import select
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

import gevent
from gevent import socket
from gevent.event import AsyncResult
from gevent.monkey import get_original
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.protocol import OPEN
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from labserver.contract.closing import retry_after_header
from labserver.load.addresses import shown
from labserver.load.frames import SIZE_LIMIT, Frames
from labserver.load.tls import Tls
from labserver.processes.reach import resolve

READ_SIZE = 65536  # bytes
HANDSHAKE_TIMEOUT = 10.0  # seconds

# With this option Linux notes when a segment arrives. CPython has no name for it; the
# value is right on all architectures but sparc and parisc.
SO_TIMESTAMPNS = 35
TIMESPEC = struct.Struct("@ll")
KERNEL_TIME = sys.platform == "linux"
ANCILLARY_SIZE = socket.CMSG_SPACE(TIMESPEC.size) if KERNEL_TIME else 0

# All connections share one buffer: no greenlet switch happens between a read and the
# moment at which its bytes are copied out.
BUFFER = bytearray(READ_SIZE)
VIEW = memoryview(BUFFER)
PlainSocket = get_original("socket", "socket")
poll = get_original("select", "poll")
GONE = getattr(select, "POLLRDHUP", 0)  # poll() always reports POLLHUP and POLLERR


class Clocks:
    """The clock of the kernel's time stamps, compared with ``time.monotonic_ns``.

    Attributes:
        ahead: Nanoseconds that it is ahead. A process may lose its processor between
            two readings, so they are not taken at each read.

    """

    def __init__(self) -> None:
        self.compare()

    def compare(self) -> None:
        """Compare again, because somebody may have set the clock."""
        shortest = 0
        for _ in range(3):
            before, there = time.monotonic_ns(), time.time_ns()
            took = time.monotonic_ns() - before
            if not shortest or took < shortest:
                shortest, self.ahead = took, there - before - took // 2


clocks = Clocks()


class Refused(ConnectionError):
    """The server answered the handshake with an HTTP response other than 101.

    Args:
        status: HTTP status; 0 if there was no valid response.
        detail: Reason, for people.
        retry_after: The header of that name, if any.

    """

    def __init__(self, status: int, detail: str, retry_after: str = "") -> None:
        super().__init__(f"HTTP {status}: {detail}")
        self.status = status
        self.retry_after = retry_after_header(retry_after)


class Closed(ConnectionError):
    """The connection has ended; code 1006 means without a close frame."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"closed {code} {reason}".rstrip())
        self.code = code


class WebSocket:
    """A WebSocket connection; the constructor returns when it is open.

    Args:
        url: ``ws://`` or ``wss://`` address, with path and query.
        headers: Further headers of the handshake.
        subprotocols: Those that are offered.
        receive_buffer: ``SO_RCVBUF`` in bytes, 0 for the kernel's choice. It is set
            before the connection is made, because TCP announces its window then.

    Attributes:
        arrived: When the data of the last read reached this machine, on the clock of
            ``time.monotonic_ns``. With several segments in one read, the last one's.
        before: The same of the read before it.
        lag: Nanoseconds between that and the read; None if the kernel does not say.
        emptied: Whether the last read took all that had arrived.
        held_up: When the socket could last be written to, after it had been full; 0 if
            it never was full. Monotonic nanoseconds.
        unsent: Bytes that the socket has not taken yet.
        frames: The parser of incoming frames; its ``control`` may be set.

    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        receive_buffer: int = 0,
        subprotocols: Sequence[str] = (),
    ) -> None:
        offered = [Subprotocol(each) for each in subprotocols]
        self.protocol = ClientProtocol(
            parse_uri(url), max_size=SIZE_LIMIT, subprotocols=offered or None
        )
        self.arrived = self.before = 0
        self.lag: int | None = None
        self.held_up = 0
        self.frames = Frames(self.protocol)
        parts = urlsplit(url)
        self.tls = Tls(parts.hostname or "") if parts.scheme == "wss" else None
        self._early: list[bytes] = []
        self.unsent = b""
        self.emptied = False
        self._hub = gevent.get_hub()
        with gevent.Timeout(HANDSHAKE_TIMEOUT, TimeoutError("handshake timed out")):
            opened = self._open(url, receive_buffer)
            # gevent's socket has its own waits and timeouts; this class needs less time
            # for them. So the socket is a plain non-blocking one from here on.
            self.socket = PlainSocket(fileno=opened.detach())
            self.socket.setblocking(False)
            loop, number = self._hub.loop, self.socket.fileno()
            self._readable, self._writable = loop.io(number, 1), loop.io(number, 2)
            try:
                if self.tls is not None:
                    self.tls.shake_hands(self._write, self._wait_and_read)
                self._shake_hands(headers or {})
            except BaseException:
                self._release()
                raise

    def _open(self, url: str, receive_buffer: int) -> socket.socket:
        """Return a connected socket; tries each address, as ::1 and 127.0.0.1."""
        places = resolve(url, socket.getaddrinfo)
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

    def _shake_hands(self, headers: Mapping[str, str]) -> None:
        request = self.protocol.connect()
        request.headers.update(headers)
        self.protocol.send_request(request)
        self._flush()
        # The hello often shares a segment with the response. It must not go to the
        # protocol, which would then keep part of a frame.
        head, end = b"", -1
        while end < 0:
            data = self._next()
            head += data
            end = head.find(b"\r\n\r\n")
            if not data or len(head) > READ_SIZE:
                raise Refused(0, "it hung up" if not data else "no end of headers")
        rest = end + 4
        self.protocol.receive_data(head[:rest])
        if self.protocol.state is OPEN:
            self.protocol.events_received()
            self._early = self.frames.cut(head[rest:])
            return
        data = head[rest:]
        while self.protocol.handshake_exc is None:  # the body of a refusal
            if data:
                self.protocol.receive_data(data)
            if self.protocol.handshake_exc is None:
                data = self._next()
                if not data:
                    self.protocol.receive_eof()
        problem = self.protocol.handshake_exc
        if isinstance(problem, InvalidStatus):
            response = problem.response
            body = bytes(response.body or b"").decode(errors="replace").strip()
            later = response.headers.get("Retry-After", "")
            reason = body or response.reason_phrase
            raise Refused(response.status_code, reason, later)
        raise Refused(0, str(problem))

    def _wait_and_read(self) -> bytes:
        self._hub.wait(self._readable)
        return bytes(VIEW[: self._read(READ_SIZE)])

    def _next(self) -> bytes:
        """Wait for bytes of the protocol; none when no more will come."""
        while True:
            data = self._wait_and_read()
            if self.tls is None or not data:
                return data
            if (plain := self.tls.decrypted(data)) or self.tls.over:
                return plain

    def receive(
        self, timeout: float | None = None, size: int = READ_SIZE
    ) -> list[bytes]:
        """Return the messages of one read; an empty list if none came in time.

        Args:
            timeout: Seconds to wait; None for no limit, 0 to return at once.
            size: Bytes to read at most.

        Raises:
            Closed: There will be no more.

        """
        if self._early:
            early, self._early = self._early, []
            return early
        while True:
            # A short read has emptied the socket. Reading again before waiting would
            # cost a system call and an exception for each message.
            if self.emptied and timeout != 0 and not self._wait(timeout):
                return []
            try:
                return self._take(size)
            except BlockingIOError:
                if timeout == 0:
                    return []
                self.emptied = True

    def _wait(self, timeout: float | None) -> bool:
        """Wait at most ``timeout`` seconds; return whether there is data to read."""
        if timeout is None:
            self._hub.wait(self._readable)
            return True
        with gevent.Timeout(timeout, False):  # type: ignore[arg-type]
            self._hub.wait(self._readable)
            return True
        return False

    def listen(self, handle: Callable[[list[bytes]], None]) -> None:
        """Call ``handle`` with the messages of each read, until the connection ends.

        ``handle`` runs in gevent's hub, because switching to a greenlet and back costs
        as much as the read itself. So it must not wait for anything.

        Raises:
            Closed: There will be no more.

        """
        over: AsyncResult[None] = AsyncResult()

        def readable() -> None:
            try:
                if messages := self._take(READ_SIZE):
                    handle(messages)
            except BlockingIOError:
                pass
            except Exception as exc:
                self._readable.stop()
                over.set_exception(exc)

        if self._early:
            handle(self.receive(0))
        self._readable.start(readable)
        try:
            over.get()
        finally:
            self._readable.stop()

    def _take(self, size: int) -> list[bytes]:
        """Read once; return the messages that are complete now."""
        count = self._read(size)
        self.emptied = count < size
        data = bytes(VIEW[:count])
        if count and self.tls is not None:
            data = self.tls.decrypted(data)
        if count and not (self.tls and self.tls.over and not data):
            messages = self.frames.cut(data)
            if self.protocol.writes:
                self._flush()
        else:
            self.protocol.receive_eof()
            messages = []
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
        self._flush()

    def close(self) -> None:
        """Send a close frame, if it can be sent at once, and close the socket."""
        try:
            if self.protocol.state is OPEN:
                self.protocol.send_close(1000)
                self.socket.send(self._leaving())
        except OSError:  # BlockingIOError, too: it would have to wait
            pass
        self._release()

    def abort(self) -> None:
        """Close the socket with an RST, without a close frame."""
        linger = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._release()

    def is_gone(self) -> bool:
        """Return whether the other side has closed the connection; reads nothing."""
        look = poll()
        look.register(self.socket, GONE)
        return bool(look.poll(0))

    def _release(self) -> None:
        self._readable.close()
        self._writable.close()
        self.socket.close()

    def _read(self, size: int) -> int:
        """Read into the buffer once; return the count of bytes, and set ``arrived``."""
        try:
            if KERNEL_TIME:
                count, ancillary, _, _ = self.socket.recvmsg_into(
                    (BUFFER if size == READ_SIZE else VIEW[:size],), ANCILLARY_SIZE
                )
                self.before = self.arrived
                now = time.monotonic_ns()
                if ancillary:  # the time stamp is the only one
                    seconds, nanoseconds = TIMESPEC.unpack(ancillary[0][2])
                    arrived = seconds * 1_000_000_000 + nanoseconds - clocks.ahead
                    self.arrived = arrived if arrived < now else now
                    self.lag = now - self.arrived
                else:
                    self.arrived, self.lag = now, None
            else:
                count = self.socket.recv_into(BUFFER, size)
                self.before = self.arrived
                self.arrived = time.monotonic_ns()
        except (ConnectionResetError, BrokenPipeError):
            raise Closed(1006, "connection reset") from None
        return int(count)

    def _flush(self) -> None:
        """Write the protocol's bytes, waiting for the socket to take them."""
        self._write(self._leaving())

    def _leaving(self) -> bytes:
        data = b"".join(self.protocol.data_to_send())
        return data if self.tls is None else self.tls.encrypted(data)

    def _write(self, data: bytes) -> None:
        """Write bytes, waiting for the socket to take them.

        The hub must not wait: there, bytes that do not fit are kept for the next call.
        """
        self.unsent += data
        try:
            while self.unsent:
                try:
                    self.unsent = self.unsent[self.socket.send(self.unsent) :]
                except BlockingIOError:
                    if gevent.getcurrent() is self._hub:
                        return
                    self._hub.wait(self._writable)
                    self.held_up = time.monotonic_ns()
        except (ConnectionResetError, BrokenPipeError):
            raise Closed(1006, "connection reset") from None
