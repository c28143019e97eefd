"""What programs ask of their machine, answered by the clock and the seed of a loop.

The code of the server and the client is the real one, and asks the modules ``time``,
``random`` and ``secrets``. They answer from the virtual world while it runs, for all
processes in it. Python must do nothing by chance, either: the garbage collector runs
destructors at moments that depend on all that was allocated before, so it waits.
"""

from __future__ import annotations

import fcntl
import gc
import random
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from labserver.server.connection import LabConnection
from labserver.simulated.network import Network
from labserver.simulated.streams import FD

WALL = 1_800_000_000.0  # what the wall clock shows when the loop's clock shows 0


@contextmanager
def virtual(network: Network, seed: str) -> Iterator[None]:
    """Answer from a world while the block runs."""
    loop, dice = network.loop, random.Random(f"{seed}/kernel")
    before = random.getstate()
    random.seed(f"{seed}/random")
    real_ioctl = fcntl.ioctl

    def ioctl(fd: Any, request: int, arg: Any = 0, *more: Any) -> Any:
        if not isinstance(fd, int) or fd < FD:
            return real_ioctl(fd, request, arg, *more)
        return network.untaken(fd - FD).to_bytes(4, sys.byteorder)

    replaced: list[tuple[Any, str, Any]] = [
        (time, "monotonic", loop.time),
        (time, "time", lambda: WALL + loop.time()),
        (secrets, "token_bytes", lambda count=32: dice.randbytes(count)),
        (secrets, "token_hex", lambda count=32: dice.randbytes(count).hex()),
        (secrets, "randbelow", dice.randrange),
        (fcntl, "ioctl", ioctl),
        # A set of connections is in the order of their hashes.
        (LabConnection, "__hash__", lambda self: int(self.name, 16)),
    ]
    real = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    collecting = gc.isenabled()
    gc.disable()
    try:
        for owner, name, answer in replaced:
            setattr(owner, name, answer)
        yield
    finally:
        for owner, name, answer in real:
            setattr(owner, name, answer)
        random.setstate(before)
        if collecting:
            gc.enable()
