"""A client whose server goes away: its process dies, or its host vanishes."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from labserver.contract.plain_json import from_json
from labserver.notebook.servers import running
from labserver.processes import faults

HEARTBEAT = 0.5  # seconds


class Watching(ClientConnection):
    """A client's connection that ends itself when it has heard nothing for too long."""

    def data_received(self, data: bytes) -> None:
        self.heard = time.monotonic()  # whatever it is: a ping of the server, too
        super().data_received(data)

    async def watch(self, heartbeat: float) -> None:
        """Abort the connection after a silence of two heartbeats.

        Args:
            heartbeat: Seconds between two pings of the server, from its ``hello``.

        """
        while True:
            left = self.heard + 2 * heartbeat - time.monotonic()
            if left <= 0:
                break
            await asyncio.sleep(left)
        self.transport.abort()  # a close would wait for an answer


@dataclass(frozen=True)
class Deserted:
    """How long a client took for its server.

    Attributes:
        what: What happened to the server.
        seconds: Until the client noticed; None if it did not.
        waited: Seconds that were waited for that, at most.

    """

    what: str
    seconds: float | None
    waited: float

    def __repr__(self) -> str:
        if self.seconds is None:
            return f"{self.what}: not noticed within {self.waited:g} s"
        return f"{self.what}: noticed after {self.seconds:.2f} s"


async def deserted(
    host: bool = False, *, watches: bool = False, waits: float = 2.0
) -> Deserted:
    """Take a client's server away, and wait until the client notices.

    Args:
        host: Whether the host vanishes: the network to it freezes. Otherwise its
            process is killed, and the host's kernel goes on.
        watches: Whether the client watches for a silence of two heartbeats.
        waits: Seconds in which the client may notice, without any other watch.

    """
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            running(heartbeat_interval=HEARTBEAT, without=("broker",))
        )
        parts = urlsplit(server.url)
        net = await stack.enter_async_context(
            faults.proxy(str(parts.hostname), parts.port or 0)
        )
        url = net.url if host else server.url
        stack.callback(net.reset)  # no close frame passes a frozen network
        client = await stack.enter_async_context(_connected(url, server.token("ann")))
        hello = from_json(await client.recv())
        tasks = [asyncio.create_task(_listen(client))]
        if watches:
            tasks.append(asyncio.create_task(client.watch(hello["heartbeat"])))
        began = time.monotonic()
        try:
            net.freeze() if host else server.process.kill()
            done, _ = await asyncio.wait(tasks[:1], timeout=waits)
            seconds = time.monotonic() - began if done else None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    what = "the host vanishes" if host else "the process dies"
    what += ", and the client watches" if watches else ""
    return Deserted(what, seconds, waits)


def _connected(url: str, token: str) -> Any:
    return connect(
        url,
        additional_headers={"Authorization": f"Bearer {token}"},
        create_connection=Watching,
        ping_interval=None,
        close_timeout=0.1,
    )


async def _listen(client: ClientConnection) -> None:
    """Read until the connection is over."""
    try:
        while True:
            await client.recv()
    except ConnectionClosed:
        return
