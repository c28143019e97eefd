"""A network in memory: hosts that listen and connect, and what breaks between them."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
from collections.abc import Iterable
from functools import partial
from typing import Any

from labserver.simulated.loop import Process, VirtualLoop, here
from labserver.simulated.streams import Made, Pipe, Transport

LATENCY = 0.0005  # seconds, for half of what is sent
SLOW = 0.02  # part of what is sent that takes much longer
WINDOW = 65536  # bytes of a connection on their way, or not read yet
SYN = 1.0  # seconds after which a lost attempt to connect is repeated


class NetworkLoop(VirtualLoop):
    """A virtual loop whose connections go through a network in memory."""

    network: Network

    async def create_connection(
        self,
        protocol_factory: Any,
        host: Any = None,
        port: Any = None,
        *,
        sock: Any = None,
        **options: Any,
    ) -> Any:
        if sock is not None:
            host, port = self.network.asked.pop(sock)
            sock.close()
        return await self.network.connect(protocol_factory, host, port)

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """Note where a socket shall lead; its transport will connect."""
        self.network.asked[sock] = address

    async def create_server(
        self,
        protocol_factory: Any,
        host: Any = None,
        port: Any = None,
        *,
        sock: Any = None,
        **options: Any,
    ) -> Any:
        listener = sock or Listener(self.network, here(), host, port)
        listener.begin(protocol_factory)
        return listener


class Listener(asyncio.AbstractServer):
    """A listening socket, and asyncio's server on it."""

    family = socket.AF_INET

    def __init__(self, network: Network, process: Process, host: str, port: int):
        self.network, self.process = network, process
        self.address = host, port or next(network.ports)
        self.made: Made | None = None

    def begin(self, made: Made) -> None:
        self.made = made
        self.network.listeners[self.address] = self

    def accept(self, transport: Transport) -> None:
        """Make the protocol of a new connection, in the process that listens."""
        if not transport.over and self.made is not None:
            transport.begin(self.made())

    def close(self) -> None:
        if self.network.listeners.get(self.address) is self:
            del self.network.listeners[self.address]

    async def wait_closed(self) -> None:
        """Do nothing: it is closed at once."""

    @property
    def sockets(self) -> tuple[Listener, ...]:
        return (self,)

    async def start_serving(self) -> None:
        """Do nothing: it serves from the beginning."""

    async def serve_forever(self) -> None:
        raise NotImplementedError

    def is_serving(self) -> bool:
        return self.network.listeners.get(self.address) is self

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self.network.loop

    # What the server asks of its socket

    def listen(self, backlog: int) -> None:
        """Do nothing: every connection is accepted."""

    def getsockname(self) -> tuple[str, int]:
        return self.address


class Network:
    """All connections between the processes of a loop.

    Args:
        loop: The loop.
        seed: What latencies begin with.

    """

    def __init__(self, loop: NetworkLoop, seed: str) -> None:
        self.loop = loop
        loop.network = self
        self.dice = random.Random(f"{seed}/network")
        self.listeners: dict[tuple[str, int], Listener] = {}
        self.open: dict[Transport, None] = {}  # in the order in which they were opened
        self.apart: dict[frozenset[str], int] = {}  # pairs of hosts, and how often
        self.asked: dict[Any, tuple[str, int]] = {}  # where sockets shall lead
        self.ports = itertools.count(20000)  # for those that may listen on any port
        self.connects = 0
        self.ambushes = 0  # of the next connections: so many are cut when they open
        self.window = WINDOW

    def latency(self) -> float:
        """Return seconds that something takes from one host to another."""
        disorder = self.loop.disorder
        usual = LATENCY * (1 + disorder * self.dice.expovariate(1.0))
        slow = disorder and self.dice.random() < SLOW
        return usual + (self.dice.uniform(0.0, 0.05) if slow else 0.0)

    def forget(self, transport: Transport) -> None:
        self.open.pop(transport, None)

    def untaken(self, number: int) -> int:
        """Return the bytes that the kernel holds for the end with a number."""
        return next((each.out.flying for each in self.open if each.number == number), 0)

    # Connecting

    async def connect(self, made: Made, host: str, port: int) -> tuple[Transport, Any]:
        """Connect the running process to a host.

        Raises:
            ConnectionRefusedError: Nothing listens there.

        """
        process, connected = here(), self.loop.create_future()
        self.reach(process, host, port, connected)
        try:
            transport = await connected
        except asyncio.CancelledError:
            if connected.done() and not connected.cancelled():
                connected.result().die()
            raise
        protocol = made()
        transport.begin(protocol)
        return transport, protocol

    def reach(
        self, process: Process, host: str, port: int, connected: asyncio.Future[Any]
    ) -> None:
        """Send a SYN; again after a while if it gets lost."""
        again = partial(self.reach, process, host, port, connected)
        if process.dead or connected.done():
            return
        if self.apart.get(frozenset((process.name, host))):
            return self.loop.at(self.loop.now + SYN, again)
        answer = partial(self.answer, process, host, port, connected)
        self.loop.at(self.loop.now + 2 * self.latency(), answer)

    def answer(
        self, process: Process, host: str, port: int, connected: asyncio.Future[Any]
    ) -> None:
        if process.dead or connected.done():
            return
        listener = self.listeners.get((host, port))
        if listener is None or listener.process.dead:
            refused = ConnectionRefusedError(f"nothing listens at {host}:{port}")
            return process.poll(_fail, connected, refused)
        self.connects += 1
        near, far = self.pair(process, listener)
        if self.ambushes:
            self.ambushes -= 1
            soon = self.loop.now + self.dice.uniform(0.0, 4 * LATENCY)
            self.loop.at(soon, partial(self.cut, near))
        process.poll(_succeed, connected, near)
        listener.process.poll(listener.accept, far)

    def pair(self, process: Process, listener: Listener) -> tuple[Transport, Transport]:
        """Return the two ends of a new connection."""
        number = self.connects
        mine, theirs = (_address(process.name), 40000 + number), listener.address
        near = Transport(
            *(self, process, 2 * number), {"sockname": mine, "peername": theirs}
        )
        far = Transport(
            *(self, listener.process, 2 * number + 1),
            {"sockname": theirs, "peername": mine},
        )
        near.out, far.out = Pipe(self, far), Pipe(self, near)
        pair = frozenset((process.name, listener.process.name))
        near.out.holds = far.out.holds = self.apart.get(pair, 0)
        near.peer, far.peer = far, near
        self.open[near] = self.open[far] = None
        return near, far

    # Faults

    def between(self, one: str, other: str) -> list[Transport]:
        """Return the ends at the first host of its connections with the other."""
        return [
            each
            for each in self.open
            if each.process.name == one and each.peer.process.name == other
        ]

    def cut(self, transport: Transport) -> None:
        """Reset a connection: each end loses what comes after some byte."""
        for pipe in (transport.out, transport.peer.out):
            pipe.cut(self.dice.randint(0, pipe.flying))

    def part(self, one: str, other: str) -> None:
        """Lose everything between two hosts; TCP tries again until :meth:`join`."""
        pair = frozenset((one, other))
        self.apart[pair] = self.apart.get(pair, 0) + 1
        for pipe in self._pipes(one, other):
            pipe.hold()

    def join(self, one: str, other: str) -> None:
        """Undo :meth:`part`."""
        self.apart[frozenset((one, other))] -= 1
        for pipe in self._pipes(one, other):
            if pipe.holds:
                pipe.release()

    def _pipes(self, one: str, other: str) -> Iterable[Pipe]:
        for near in self.between(one, other):
            yield near.out
        for far in self.between(other, one):
            yield far.out

    def bury(self, process: Process) -> None:
        """Close everything that a dead process had open, as its kernel does."""
        for each in [each for each in self.open if each.process is process]:
            each.die()
        for address, listener in list(self.listeners.items()):
            if listener.process is process:
                del self.listeners[address]


def _succeed(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)
    else:
        result.die()


def _fail(future: asyncio.Future[Any], problem: Exception) -> None:
    if not future.done():
        future.set_exception(problem)


def _address(name: str) -> str:
    """Return an IP address for a host: a number at the end of its name tells it."""
    digits = "".join(filter(str.isdigit, name)) or "0"
    return f"10.{len(name)}.{int(digits) // 256 % 256}.{int(digits) % 256}"
