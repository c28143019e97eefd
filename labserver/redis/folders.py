"""Folders of embedded Redis servers, removed also after their process was killed.

A killed process cannot clean up, so the next one does. Each folder has a file that its
process keeps locked. The kernel frees the lock when the process ends, however it ends.
Unlike a process's number, a lock cannot pass to a stranger.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

PREFIX = "labserver-redis-"
LOCK = "lock"
SOCKET = "redis.sock"
ANSWER_TIMEOUT = 1.0  # seconds that an orphan has to take its farewell


@contextmanager
def own_folder() -> Iterator[Path]:
    """Yield a new folder in the system's temporary one; remove it after the block."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        folder = Path(name)
        with (folder / "unlocked").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Only now others may find it: an unlocked one would mean a dead process.
            (folder / "unlocked").rename(folder / LOCK)
            yield folder


def remove_leftovers() -> None:
    """Remove the folders of this user's processes that are dead."""
    for folder in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        # BlockingIOError: its process is alive. Another process may clean up, too.
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            with (folder / LOCK).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _shut_down(folder / SOCKET)
                shutil.rmtree(folder)


def _shut_down(socket: Path) -> None:
    """End a Redis that has outlived its process; on Linux there is none."""
    with (
        contextlib.suppress(RedisError, OSError),
        Redis(
            unix_socket_path=str(socket),
            socket_timeout=ANSWER_TIMEOUT,
            retry=Retry(NoBackoff(), 0),  # by default it tries for four seconds
        ) as redis,
    ):
        redis.shutdown(nosave=True)
