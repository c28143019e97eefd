"""Servers that belong to a load test, so that it may inject faults.

This module has both sides of a Unix socket. The process that runs the servers
(``python -m loadtests``) listens on it, and the load test asks for a fault at the
scheduled moment. The load test does not get process ids, because only the owner knows
which of its processes have ended.

The requests are lines: ``kill N`` kills the N-th server (from 0) with SIGKILL;
``pause SECONDS`` stops Redis with SIGSTOP, and continues it after so many seconds. The
answer is ``done``, or a sentence that says why not.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from labserver.processes.cluster import Replica, start_replica
from labserver.redis.embedded import EmbeddedRedis, embedded_redis

CONTROL = "LAB_LOAD_CONTROL"  # path of the socket, for the load test
PAUSE_LIMIT = 30.0  # seconds
ANSWER_TIMEOUT = 10.0


@dataclass
class Owned:
    """Servers, and the environment variables that a load test needs to use them."""

    replicas: list[Replica]
    redis: EmbeddedRedis
    environment: dict[str, str]

    @property
    def urls(self) -> list[str]:
        return [replica.url for replica in self.replicas]

    async def obey(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Read one request, do it, and answer."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                line = (await reader.readline()).decode()
            word, _, value = line.strip().partition(" ")
            match word:
                case "kill":
                    await self.replicas[int(value)].stop(signal.SIGKILL)
                case "pause":
                    seconds = min(float(value), PAUSE_LIMIT)
                    self.redis.signal(signal.SIGSTOP)
                    loop = asyncio.get_running_loop()
                    loop.call_later(seconds, self.redis.signal, signal.SIGCONT)
                case _:
                    raise ValueError(f"what is {word[:20]!r}?")
            answer = "done"
        except (ValueError, IndexError, OSError) as exc:
            answer = str(exc) or type(exc).__name__
        writer.write(answer.encode() + b"\n")
        writer.close()


@asynccontextmanager
async def owned(
    count: int = 2, *arguments: str, secret: str = ""
) -> AsyncIterator[Owned]:
    """Run servers on a Redis of their own, and listen for requests of faults.

    Args:
        count: Number of servers.
        arguments: Further arguments of ``labserver serve``, for each server.
        secret: Signs tokens; empty for a random one.

    """
    secret = secret or secrets.token_urlsafe(32)
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(embedded_redis())
        # While Redis is stopped, it cannot end and the servers cannot drain.
        stack.callback(redis.signal, signal.SIGCONT)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="loadtests-"))
        path = str(Path(folder) / "control")
        replicas: list[Replica] = []
        # A LAB_TOKEN of the user's environment is for another server.
        environment = {"LAB_SECRET": secret, "LAB_TOKEN": "", CONTROL: path}
        result = Owned(replicas, redis, environment)

        async def stop() -> None:
            redis.signal(signal.SIGCONT)
            await asyncio.gather(*(replica.stop() for replica in replicas))

        stack.push_async_callback(stop)
        for number in range(count):
            replica = await start_replica(
                *("resume", "--replica", f"replica-{number + 1}", *arguments),
                secret=secret,
                environment={"LAB_REDIS_URL": redis.url},
            )
            replicas.append(replica)
        server = await asyncio.start_unix_server(result.obey, path)
        stack.callback(server.close)
        yield result


# The load test's side


def is_owner() -> bool:
    """Return whether faults may be injected into the servers."""
    return CONTROL in os.environ


def ask(line: str) -> None:
    """Ask for a fault, and wait until it is done.

    Raises:
        OSError: The fault was not done; the message says why.

    """
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(ANSWER_TIMEOUT)
        control.connect(os.environ[CONTROL])
        control.sendall(line.encode() + b"\n")
        answer = control.recv(1000).decode().strip()
    if answer != "done":
        raise OSError(f"{line}: {answer}")
