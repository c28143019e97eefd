"""What asyncio's own event loop gets wrong about sockets, put right in one place.

A transport of asyncio's own loop that is closed while its buffer is full forgets its
loop once the buffer is empty. ``abort()`` then raises AttributeError (Python 3.11,
``_SelectorSocketTransport._write_ready``), in whoever comes late: a timer, the
heartbeat, the library at the end of a handler.

And where no file descriptor is left, each attempt to accept is a traceback and a timer
of its own, as many in a row as the backlog is long.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Iterable
from typing import Any

log = logging.getLogger("labserver")

ACCEPTS = 100  # connections that are accepted in one turn of the loop
BACKLOG = 4096  # connections that the kernel keeps meanwhile
COMPLAINT_INTERVAL = 1.0  # seconds
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def widen(listening: socket.socket) -> None:
    """Let a server's backlog be longer than the row of connections it accepts.

    The loop knows one number for both. Call it when the server listens.
    """
    listening.listen(BACKLOG)


class Complaints:
    """A loop's exception handler that says once a second what it cannot accept for."""

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


def abort(transport: asyncio.WriteTransport) -> None:
    """End a connection at once, whatever waits in its buffer; nothing if it is over."""
    if transport.get_protocol() is not None:  # forgotten, too
        transport.abort()


class Over(asyncio.Transport):
    """What a connection has in place of a transport when its socket is gone.

    It takes every order, does nothing, and holds nothing.
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
