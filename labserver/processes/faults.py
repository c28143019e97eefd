"""A TCP proxy that breaks the network on purpose.

Each direction can be frozen (half-open: no bytes pass, and neither side gets an error),
delayed and throttled. Connections can be cut (FIN) or reset (RST), and new ones
refused. Each direction holds a limited number of bytes: a frozen proxy acts like a full
network, not like a large buffer.

    async with faults.proxy("127.0.0.1", port) as net:
        net.down.freeze()
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from labserver.errors import SettingsError
from labserver.server.sockets import abort

BUFFER = 65536  # bytes that a direction holds of one connection, at most
PIECE = 4096


@dataclass
class Way:
    """One direction of every connection through a proxy.

    Attributes:
        delay: Seconds by which each piece of data is delayed.
        jitter: Seconds by which a piece may be delayed in addition, at random. What
            one connection carries stays in order.
        rate: Bytes a second on each connection; 0 for no limit.
        carried: Bytes carried so far.

    """

    delay: float = 0.0
    jitter: float = 0.0
    rate: float = 0.0
    carried: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()

    def freeze(self) -> None:
        """Let nothing through; connections stay open."""
        self.open.clear()

    def thaw(self) -> None:
        """Let everything through again, first the data that was held."""
        self.open.set()


class Proxy:
    """A listening socket, a server's address, and the two directions between them.

    Attributes:
        up: From the client to the server.
        down: From the server to the client.
        refusing: Whether new connections are reset at once.
        accepted: Connections that were forwarded so far.

    """

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.up = Way()
        self.down = Way()
        self.refusing = False
        self.accepted = 0
        self.port = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def freeze(self) -> None:
        """Freeze both directions, as if the network had vanished."""
        self.up.freeze()
        self.down.freeze()

    def thaw(self) -> None:
        self.up.thaw()
        self.down.thaw()

    def cut(self) -> None:
        """Close every connection, as a process does that exits (FIN)."""
        for writer in list(self.writers):
            writer.close()

    def reset(self) -> None:
        """Reset every connection, as a machine does that was restarted (RST)."""
        for writer in list(self.writers):
            _reset(writer)

    # Connections

    async def accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self.join(reader, writer)
        except OSError:
            _reset(writer)
        except asyncio.CancelledError:
            # By stop(). It is not raised on: asyncio of Python 3.11 would log an error.
            abort(writer.transport)
        finally:
            self.tasks.discard(task)

    async def join(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Connect to the server, and carry both directions until one of them ends."""
        if self.refusing:
            return _reset(writer)
        self.accepted += 1
        behind, ahead = await asyncio.open_connection(*self.target, limit=BUFFER)
        pair = (writer, ahead)
        self.writers.update(pair)
        try:
            ways = [
                asyncio.create_task(carry(reader, ahead, self.up)),
                asyncio.create_task(carry(behind, writer, self.down)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)
        finally:
            self.writers.difference_update(pair)
            for each in pair:
                each.close()

    async def stop(self) -> None:
        for task in list(self.tasks):
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)


async def carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way
) -> None:
    """Move bytes in one direction, in order, with its delay and rate."""
    held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(BUFFER // PIECE)

    async def read() -> None:
        while data := await reader.read(PIECE):
            await held.put((time.monotonic(), data))
        await held.put((time.monotonic(), b""))

    reading = asyncio.create_task(read())
    through = 0.0  # when the piece before is through
    try:
        while True:
            arrived, data = await held.get()
            await until(arrived + way.delay + random.uniform(0.0, way.jitter))
            if not way.open.is_set():
                await way.open.wait()
                through = time.monotonic()
            if not data:
                return
            if way.rate:
                # Counted from when it came: who is woken late makes up for it.
                through = max(through, arrived) + len(data) / way.rate
                await until(through)
            way.carried += len(data)
            writer.write(data)
            await writer.drain()
    except OSError:
        return
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def until(due: float) -> None:
    """Wait until a moment of the monotonic clock, and not a moment less.

    A timer alone does not: uvloop's counts whole milliseconds, from a time that it read
    before, and takes less than half of one for none.
    """
    while (left := due - time.monotonic()) > 0:  # noqa: ASYNC110
        await asyncio.sleep(left)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    # A linger of zero seconds makes close() send RST, see socket(7). uvloop has no
    # socket any more where the connection has just ended.
    with contextlib.suppress(OSError):
        if sock is not None:
            linger = struct.pack("ii", 1, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    abort(writer.transport)


COMMANDS = """\
freeze [up|down]        let nothing through; connections stay open
thaw [up|down]          let everything through again
delay SECONDS [up|down] delay everything
throttle N [up|down] let N bytes a second through on each connection; 0: no limit
cut                     end every connection (FIN)
reset                   end every connection (RST)
refuse / accept         reset new connections, or take them again
quit"""


async def commands(file: int) -> AsyncIterator[str]:
    """Yield the lines of a file, until it ends.

    A thread reads the file, because no event loop can wait for a regular file, and
    uvloop ends the process when it is asked to. The thread may still read a terminal
    when the loop has ended, so it is a daemon: the process need not wait for it.

    Args:
        file: Descriptor of a terminal, a pipe or a file.

    """
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue(1)

    def tell(line: str | None) -> None:
        put = lines.put(line)
        try:
            asyncio.run_coroutine_threadsafe(put, loop).result()
        except RuntimeError:  # the loop is closed, and nobody awaits it
            put.close()
            raise

    def read() -> None:
        begun = b""
        # The loop may be closed meanwhile, and the put cancelled.
        with contextlib.suppress(RuntimeError, CancelledError):
            with contextlib.suppress(OSError):
                while data := os.read(file, PIECE):
                    *whole, begun = (begun + data).split(b"\n")
                    for line in whole:
                        tell(line.decode(errors="replace"))
                    begun = begun[:PIECE]
            tell(begun.decode(errors="replace"))
            tell(None)

    threading.Thread(target=read, daemon=True).start()
    while (line := await lines.get()) is not None:
        yield line


def obey(proxy: Proxy, line: str) -> str:
    """Obey one line of :data:`COMMANDS`; return what was done.

    Raises:
        SettingsError: There is no such command.

    """
    match line.split():
        case ["cut"]:
            proxy.cut()
        case ["reset"]:
            proxy.reset()
        case ["refuse" | "accept" as what]:
            proxy.refusing = what == "refuse"
        case ["freeze" | "thaw" as what, *ways]:
            for way in _ways(proxy, ways):
                way.freeze() if what == "freeze" else way.thaw()
        case ["delay" | "throttle" as what, number, *ways]:
            value = _number(number)
            for way in _ways(proxy, ways):
                setattr(way, "delay" if what == "delay" else "rate", value)
        case _:
            raise SettingsError(f"there is no such command: {line.strip()[:60]!r}")
    return f"done: {line.strip()}"


def _ways(proxy: Proxy, names: list[str]) -> list[Way]:
    ways = {"up": proxy.up, "down": proxy.down}
    if not set(names) <= ways.keys():
        raise SettingsError(f"a direction is up or down, not {' '.join(names)[:40]!r}")
    return [ways[name] for name in names] or list(ways.values())


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e12:
        raise SettingsError(f"a number from 0 is needed, not {text[:40]!r}")
    return value


@asynccontextmanager
async def proxy(host: str, port: int, listen: int = 0) -> AsyncIterator[Proxy]:
    """Run a proxy on 127.0.0.1 in front of a server.

    Args:
        host: Host of the server.
        port: Port of the server.
        listen: Port to listen on; 0 for a free one, see :attr:`Proxy.port`.

        Raises:
            SettingsError: The port cannot be used.

    """
    through = Proxy(host, port)
    try:
        server = await asyncio.start_server(
            through.accept, "127.0.0.1", listen, limit=BUFFER
        )
    except OSError as exc:
        raise SettingsError(f"cannot listen on 127.0.0.1:{listen}: {exc}") from None
    through.port = server.sockets[0].getsockname()[1]
    try:
        yield through
    finally:
        server.close()
        await through.stop()
        await server.wait_closed()
