"""Transports that are over, on every event loop.

A transport of asyncio's own loop that is closed while its buffer is full forgets its
loop once the buffer is empty. ``abort()`` then raises AttributeError (Python 3.11,
``_SelectorSocketTransport._write_ready``), in whoever comes late: a timer, the
heartbeat, the library at the end of a handler.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any


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
