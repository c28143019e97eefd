"""Stop Python code in another thread that never returns."""

from __future__ import annotations

import ctypes
import threading
import time

PAUSE = 0.05  # seconds between two attempts: the code may catch the exception


class Hung(SystemExit):
    """Raised in a thread that does not return; asyncio and threading let it pass."""


def interrupt(thread: threading.Thread) -> None:
    """Raise Hung in a thread, as soon as it executes Python again.

    A call that waits in the kernel or computes in C is not interrupted before it
    returns.
    """
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(Hung)
    )


def stop(thread: threading.Thread, within: float = 1.0) -> bool:
    """Interrupt a thread until it ends; return whether it did in ``within`` seconds."""
    end = time.monotonic() + within
    while thread.is_alive() and time.monotonic() < end:
        interrupt(thread)
        thread.join(PAUSE)
    return not thread.is_alive()
