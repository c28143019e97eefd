"""A world of plain TCP connections, each of which a learner's coroutine serves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from labserver.judge.outcomes import Skipped
from labserver.judge.outside import Outside
from labserver.judge.peers import Place, Served

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

LINGER = 1.0  # seconds in which a client may still send
LAST = 0.1  # seconds until a coroutine is cancelled whose client has left


async def unserved(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve nothing."""


@dataclass(frozen=True)
class Plain(Outside):
    """A world whose server is a coroutine: it is all that is between TCP and a client.

    Args:
        serve: Serves one connection, and returns when that is over.

    """

    serve: Serve = unserved

    @asynccontextmanager
    async def running(self, replica: int = 0, **settings: Any) -> AsyncIterator[Served]:
        if settings:
            raise Skipped(f"needs settings: {', '.join(sorted(settings))}")
        tasks = set[asyncio.Task[Any]]()

        async def converse(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            try:
                # A client that just goes ends the reading, and is no fault of a server.
                with contextlib.suppress(OSError, EOFError):
                    await self.serve(reader, writer)
                await _rest(reader, writer)
            finally:
                writer.transport.abort()

        server = await asyncio.start_server(converse, "127.0.0.1", 0)
        try:
            port = server.sockets[0].getsockname()[1]
            yield Place(f"ws://127.0.0.1:{port}", self.secret)
        finally:
            server.close()
            if tasks:  # their clients have left, and that they should notice
                await asyncio.wait(tasks, timeout=LAST)
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _rest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send what waits, and take what still comes: a reset would overtake the former."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(LINGER):
            await writer.drain()
            writer.write_eof()
            while await reader.read(2**16):
                pass
