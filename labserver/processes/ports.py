"""Ports for programs that must be told theirs before they listen."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

from labserver.errors import LabError

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
EPHEMERAL = 32768  # where the system's own choice begins, if it does not say
COUNT = 8000  # ports below that to choose from
TRIES = 100


class NoPort(LabError):
    """There is no free port; the message says how many were tried."""


def free_ports(count: int) -> list[int]:
    """Return different TCP ports that nobody listens on now.

    They are below those that the system gives out by itself. Any other program may get
    one of those until ours listens, and would then be taken for it.

    Raises:
        NoPort: There are not so many.

    """
    first = EPHEMERAL
    with contextlib.suppress(OSError, ValueError):
        first = int(RANGE.read_text().split()[0])
    least = first - COUNT if first > 2 * COUNT else 10_000
    tried = random.SystemRandom().sample(range(least, least + COUNT), TRIES + count)
    found = [port for port in tried if _is_free(port)][:count]
    if len(found) < count:
        raise NoPort(f"{len(found)} of {len(tried)} ports are free, not {count}")
    return found


def free_port() -> int:
    """Return one; see :func:`free_ports`."""
    (port,) = free_ports(1)
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
