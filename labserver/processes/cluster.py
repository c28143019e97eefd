"""Several replicas as processes of this machine, on one embedded Redis.

Tests, chapters and load tests use this, too, to run a server as a subprocess on a port
of its own: a server inside the measuring process would share its CPU time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from labserver.contract.tokens import issue
from labserver.errors import SettingsError
from labserver.processes.launch import kill, launch
from labserver.redis.embedded import end_with_parent, running_redis

STOP_TIMEOUT = 15.0


@dataclass
class Replica:
    """One ``labserver serve`` process.

    Args:
        url: ``ws://`` address.
        secret: Secret with which its tokens are signed.
        process: The process.

    """

    url: str
    secret: str = field(repr=False)
    process: asyncio.subprocess.Process = field(repr=False)

    def token(
        self, user: str = "ann", rooms: Sequence[str] | None = None, ttl: float = 3600
    ) -> str:
        """Return a token that this replica accepts."""
        return issue(self.secret, user, rooms, ttl)

    def address(self, user: str = "ann") -> str:
        """Return the URL with a token in it, for clients that only take a URL."""
        return f"{self.url}/?token={self.token(user)}"

    @property
    def pid(self) -> int:
        return self.process.pid

    async def get(self, path: str) -> tuple[int, str]:
        """Return status and body of an HTTP request."""
        url = self.url.replace("ws://", "http://", 1) + path
        return await asyncio.to_thread(_get, url)

    async def metric(self, name: str) -> float:
        """Return one sample of ``/metrics``, such as ``labserver_connections``."""
        return (await self.metrics())[name]

    async def metrics(self) -> dict[str, float]:
        """Return every sample of ``/metrics``, by name and labels."""
        _, page = await self.get("/metrics")
        lines = [line for line in page.splitlines() if not line.startswith("#")]
        pairs = (line.rpartition(" ") for line in lines)
        return {name: float(value) for name, _, value in pairs}

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the process, after 15 s with SIGKILL; return its exit status."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(how)
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                return await self.process.wait()
        except TimeoutError:
            await kill(self.process)
            return await self.process.wait()


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


async def start_replica(
    stage: str = "resume",
    *arguments: str,
    secret: str = "",
    environment: Mapping[str, str] = {},
) -> Replica:
    """Start ``labserver serve`` on a free port and wait until it listens.

    Args:
        stage: Last stage.
        arguments: Further arguments of ``serve``.
        secret: Signs tokens; empty for a random one.
        environment: Variables added to those of this process.

    Raises:
        NotListening: It did not listen; the message is its output.

    """
    secret = secret or secrets.token_urlsafe(32)
    port = () if "--port" in arguments else ("--port", "0")
    command = [sys.executable, "-m", "labserver", "serve", "--stage", stage]
    process, url = await launch(
        [*command, *port, *arguments],
        {**os.environ, "LAB_SECRET": secret, **environment},
        partial(end_with_parent, signal.SIGTERM),
    )
    return Replica(url, secret, process)


@asynccontextmanager
async def running_replica(
    stage: str = "resume",
    *arguments: str,
    secret: str = "",
    environment: Mapping[str, str] = {},
) -> AsyncIterator[Replica]:
    """Run one server process; see :func:`start_replica`."""
    replica = await start_replica(
        stage, *arguments, secret=secret, environment=environment
    )
    try:
        yield replica
    finally:
        await replica.stop()


@dataclass
class Cluster:
    """Replicas that share a secret and a Redis."""

    redis: str
    replicas: list[Replica]


@asynccontextmanager
async def running_cluster(
    count: int = 3,
    stage: str = "resume",
    *arguments: str,
    secret: str = "",
    redis: str = "",
    first_port: int = 0,
) -> AsyncIterator[Cluster]:
    """Run replicas on one Redis, an embedded one unless ``redis`` is a URL.

    Args:
        count: Number of replicas.
        stage: Last stage.
        arguments: Further arguments of ``serve``, for each replica.
        secret: Signs tokens; empty for a random one.
        redis: URL of a Redis; empty for an embedded one.
        first_port: Port of the first replica, the others follow; 0 for free ones.

    Raises:
        SettingsError: LAB_SSE_PORT names one port for all replicas.
        NotListening: A replica did not start.

    """
    if count > 1 and os.environ.get("LAB_SSE_PORT", "0") != "0":
        raise SettingsError(
            "LAB_SSE_PORT is a port for one server, and each replica needs its own: "
            "unset it, or start each replica with labserver serve and the same --redis"
        )
    secret = secret or secrets.token_urlsafe(32)
    async with AsyncExitStack() as stack:
        url = redis or await stack.enter_async_context(running_redis())
        replicas: list[Replica] = []
        stack.push_async_callback(_stop_all, replicas)
        for index in range(count):
            replica = await start_replica(
                stage,
                *("--port", str(first_port + index if first_port else 0)),
                *("--replica", f"replica-{index + 1}"),
                *arguments,
                secret=secret,
                environment={"LAB_REDIS_URL": url},
            )
            replicas.append(replica)
        yield Cluster(url, replicas)


async def _stop_all(replicas: Sequence[Replica]) -> None:
    await asyncio.gather(*(replica.stop() for replica in replicas))
