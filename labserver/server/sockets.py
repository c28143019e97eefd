"""Works around errors of asyncio's own event loop with sockets.

A transport that is closed while its buffer is full forgets its loop when the buffer has
been written. A later ``abort()`` then raises AttributeError (Python 3.11,
``_SelectorSocketTransport._write_ready``): in a timer, in the heartbeat, or in the
library at the end of a handler.

When no file descriptor is left, each attempt to accept a connection logs a traceback
and starts a timer, as often as the backlog is long.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import socket
import sys
import termios
import time
from collections.abc import Iterable
from typing import Any

log = logging.getLogger("labserver")

ACCEPTS = 100  # connections accepted in one turn of the loop
BACKLOG = 4096  # connections that wait in the kernel to be accepted
ACKED = slice(120, 128)  # tcpi_bytes_acked in Linux's struct tcp_info
COMPLAINT_INTERVAL = 1.0  # seconds between two log lines
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def widen(listening: socket.socket) -> None:
    """Make the backlog of a listening socket ``BACKLOG`` long.

    asyncio has one number for the backlog and for the connections that it accepts in
    one turn. Call this after the server listens.
    """
    listening.listen(BACKLOG)


class Complaints:
    """A loop's exception handler: it logs failed accepts once a second at most."""

    def __init__(self) -> None:
        self.due = 0.0

    def __call__(
        self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]
    ) -> None:
        exc = context.get("exception")
        if not (isinstance(exc, OSError) and exc.errno in EXHAUSTED):
            return loop.default_exception_handler(context)
        if time.monotonic() >= self.due:
            self.due = time.monotonic() + COMPLAINT_INTERVAL
            log.warning("no connection can be accepted: %s", exc.strerror)


def taken(transport: asyncio.WriteTransport) -> int:
    """Return a number that grows when the peer takes bytes.

    What waits in this process is no measure of that: it grows with each message, and
    the kernel takes more only when a third of its buffer (4 MB) is free. At 100 kB a
    second that is every 13 seconds. Linux counts what the peer has acknowledged.
    """
    with contextlib.suppress(OSError, AttributeError):  # with TLS it may be gone
        if sys.platform != "linux":
            return -transport.get_write_buffer_size()
        sock = transport.get_extra_info("socket")
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, ACKED.stop)
        return int.from_bytes(info[ACKED], sys.byteorder)
    return 0


def untaken(transport: asyncio.WriteTransport) -> int:
    """Return the bytes that the peer has not taken yet, here and in the kernel."""
    waiting = transport.get_write_buffer_size()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            sock = transport.get_extra_info("socket")
            answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
            return waiting + int.from_bytes(answer, sys.byteorder)
    return waiting


def abort(transport: asyncio.WriteTransport) -> None:
    """End a connection at once and discard its buffer; do nothing if it has ended."""
    if transport.get_protocol() is not None:  # None after the transport has ended
        transport.abort()


class Over(asyncio.Transport):
    """Stands in for a connection's transport when its socket is gone.

    Every method does nothing.
    """

    def is_closing(self) -> bool:
        return True

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def writelines(self, data: Iterable[bytes | bytearray | memoryview]) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


OVER = Over()
