"""The two ends of a connection in memory, and the pipes between them.

A pipe carries the bytes of one direction: in order, late, and not more at a time than
fit into the buffers of both kernels. What does not fit waits in the sender's transport,
which then pauses its protocol. A pipe can be held: what is on its way arrives when it
is released, or never. It can be cut at any byte: what is behind the cut is lost, and a
reset follows.
"""

from __future__ import annotations

import asyncio
import errno
import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from labserver.simulated.loop import Process

if TYPE_CHECKING:
    from labserver.simulated.network import Network

READ = 2**18  # bytes that a process reads in one turn
SPLIT = 0.1  # part of the writes that arrive in two parts
ACKED = slice(120, 128)  # tcpi_bytes_acked in Linux's struct tcp_info
FD = 2**30  # no descriptor of a real file is so high

END, RESET = "end", "reset"  # what a pipe carries beside bytes


class Pipe:
    """One direction of a connection."""

    def __init__(self, network: Network, to: Transport) -> None:
        self.network, self.to = network, to
        self.way: deque[tuple[float, bytes | str]] = deque()
        self.used = 0  # bytes on their way, or in the receiver's kernel
        self.sent = 0  # bytes in all
        self.arrived = 0
        self.last = 0.0  # when the newest arrives
        self.holds = 0  # reasons for which it is held

    def send(self, what: bytes | str) -> None:
        """Send bytes, or the end, or a reset."""
        dice, loop = self.network.dice, self.network.loop
        if isinstance(what, bytes):
            self.used += len(what)
            self.sent += len(what)
            if len(what) > 1 and dice.random() < SPLIT * loop.disorder:
                middle = dice.randrange(1, len(what))
                self._plan(what[:middle])
                what = what[middle:]
        self._plan(what)

    def _plan(self, what: bytes | str) -> None:
        loop = self.network.loop
        self.last = max(self.last, loop.now + self.network.latency())
        self.way.append((self.last, what))
        if not self.holds:
            loop.at(self.last, self.arrive)

    def arrive(self) -> None:
        """Hand over what has come by now, unless the pipe is held."""
        now = self.network.loop.now
        while self.way and self.way[0][0] <= now and not self.holds:
            _, what = self.way.popleft()
            if isinstance(what, bytes):
                self.arrived += len(what)
            self.to.arrived(what)

    def hold(self) -> None:
        self.holds += 1

    def release(self) -> None:
        """Deliver what was held, in order."""
        self.holds -= 1
        if not self.holds:
            soon = self.network.loop.now + self.network.latency()
            self.way = deque((max(at, soon), what) for at, what in self.way)
            self.last = max(self.last, soon)
            for at, _ in self.way:
                self.network.loop.at(at, self.arrive)

    def cut(self, at: int) -> None:
        """Lose everything on its way from byte ``at`` on; a reset comes instead."""
        kept: deque[tuple[float, bytes | str]] = deque()
        for when, what in self.way:
            if not isinstance(what, bytes) or at <= 0:
                break
            kept.append((when, what[:at]))
            at -= len(what)
        self.way = kept
        self.send(RESET)

    @property
    def flying(self) -> int:
        """Bytes that were sent and have not arrived."""
        return self.sent - self.arrived


class Transport(asyncio.Transport):
    """One end of a connection: what asyncio gives to a protocol.

    Args:
        process: The process at this end.
        number: Unique.
        names: What ``get_extra_info`` answers.

    """

    def __init__(
        self, network: Network, process: Process, number: int, names: dict[str, Any]
    ) -> None:
        super().__init__()
        self.network, self.process, self.number = network, process, number
        self.names = names
        self.out: Pipe  # set by the network, as the other end is
        self.peer: Transport
        self.protocol: Any = None
        self.kernel: deque[bytes | str] = deque()  # arrived, and not read
        self.waiting = bytearray()  # written, and not in the kernel
        self.high, self.low = 65536, 16384
        self.pressed = False  # whether the protocol was told to pause
        self.reading = True
        self.polled = False  # whether the process will be told that it can read
        self.closing = False
        self.over = False  # whether the socket is closed
        self.gone = False  # whether the protocol was told so
        self.ended = False  # whether no more will be written

    # What the kernel does

    def arrived(self, what: bytes | str) -> None:
        """Take what came from the other end."""
        if self.over:
            if what is not RESET:  # there is no such connection any more
                self.out.send(RESET)
            return
        self.kernel.append(what)
        self.poll()

    def poll(self) -> None:
        wanted = self.reading or (bool(self.kernel) and self.kernel[0] is RESET)
        if self.kernel and wanted and not self.polled and self.protocol is not None:
            self.polled = True
            self.process.poll(self.read)

    def freed(self) -> None:
        """Note that the window has space again."""
        if self.waiting and not self.over:
            self.process.poll(self.push)

    def die(self) -> None:
        """Close as the kernel does for a process that is dead."""
        if not self.over:
            self.over = True
            self.out.send(RESET)
            self.network.forget(self)

    # What the process does

    def begin(self, protocol: Any) -> None:
        """Connect to a protocol, in the process at this end."""
        self.protocol = protocol
        protocol.connection_made(self)
        self.poll()

    def read(self) -> None:
        self.polled = False
        if self.over or not self.kernel:
            return
        if self.kernel[0] is RESET:
            return self.fail(ConnectionResetError(errno.ECONNRESET, "reset by peer"))
        if not self.reading or self.closing:
            return
        if self.kernel[0] is END:
            self.kernel.popleft()
            if not self.protocol.eof_received():
                self.close()
            return
        data = bytearray()
        while self.kernel and len(data) < READ and isinstance(self.kernel[0], bytes):
            data += self.kernel.popleft()  # type: ignore[arg-type]
        pipe = self.peer.out
        pipe.used -= len(data)
        if self.peer.waiting and not pipe.holds:
            loop = self.network.loop
            loop.at(loop.now + self.network.latency(), self.peer.freed)
        self.protocol.data_received(bytes(data))
        self.poll()

    def write(self, data: Any) -> None:
        if self.ended:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self.gone:  # as in uvloop; asyncio only warns
            raise RuntimeError("unable to perform operation; the handler is closed")
        if self.closing or self.over or not data:
            return
        self.waiting += data
        self.push()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def push(self) -> None:
        """Give to the kernel what fits into the window."""
        if self.over:
            return
        if space := max(0, self.network.window - self.out.used):
            data = bytes(self.waiting[:space])
            if data:
                del self.waiting[:space]
                self.out.send(data)
        if not self.waiting and self.ended:
            self.out.send(END)
        self.press()
        if not self.waiting and self.closing:
            self.lose(None)

    def press(self) -> None:
        """Pause or resume the protocol, as the bytes that wait demand."""
        waiting = len(self.waiting)
        if waiting > self.high and not self.pressed:
            self.pressed = True
            self.protocol.pause_writing()
        elif waiting <= self.low and self.pressed:
            self.pressed = False
            self.protocol.resume_writing()

    def write_eof(self) -> None:
        if self.ended or self.closing or self.over:
            return
        self.ended = True
        if not self.waiting:
            self.out.send(END)

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        """Close when everything that waits is written."""
        if self.closing or self.over:
            return
        self.closing = True
        if not self.waiting:
            self.lose(None)

    def abort(self) -> None:
        """Close at once, and discard what waits."""
        if not self.over:
            self.closing = True
            self.waiting.clear()
            self.lose(None, polite=False)

    def fail(self, exc: Exception) -> None:
        self.closing = True
        self.waiting.clear()
        self.lose(exc, polite=False)

    def lose(self, exc: Exception | None, polite: bool = True) -> None:
        """Close the socket, and tell the protocol soon.

        A socket with unread bytes says so with a reset (RFC 2525 section 2.17).
        """
        if self.over:
            return
        self.over = True
        unread = any(isinstance(what, bytes) for what in self.kernel)
        if not polite or unread:
            self.out.send(RESET)
        elif not self.ended:
            self.out.send(END)
        self.kernel.clear()
        self.network.forget(self)
        self.pressed = False
        self.network.loop.call_soon(self.tell, exc, context=self.process.context)

    def tell(self, exc: Exception | None) -> None:
        """Tell the protocol that the connection is lost."""
        self.protocol.connection_lost(exc)
        self.gone = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
        if not self.over:
            self.poll()

    def is_reading(self) -> bool:
        return self.reading and not self.closing

    def is_closing(self) -> bool:
        return self.closing or self.over

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self.low, self.high

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        self.high = 65536 if high is None else high
        self.low = self.high // 4 if low is None else low

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return Socket(self)
        return self.names.get(name, default)


class Socket:
    """What the server asks of a socket: how much the peer has taken."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    def fileno(self) -> int:
        """Return a descriptor: to write to it fails, and the transport is used."""
        return FD + self.transport.number

    def setsockopt(self, *option: Any) -> None:
        """Do nothing."""

    def getsockopt(self, level: int, option: int, size: int = 0) -> bytes:
        """Return a ``tcp_info`` in which only the acknowledged bytes are set."""
        info = bytearray(size)
        info[ACKED] = self.transport.out.arrived.to_bytes(8, sys.byteorder)
        return bytes(info)

    def getsockname(self) -> Any:
        return self.transport.names["sockname"]

    def getpeername(self) -> Any:
        return self.transport.names["peername"]


Made = Callable[[], Any]
