"""Members that ask for one form of frames, and what they cost the server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

import cbor2
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from labserver.contract import wire
from labserver.contract.plain_json import to_json
from labserver.contract.wire import Variant
from labserver.notebook.charts import line_through
from labserver.notebook.peers import Peer, connected
from labserver.notebook.progress import progress
from labserver.notebook.samples import used
from labserver.notebook.servers import running
from labserver.processes.cluster import Replica

FORMS = {
    "JSON": Variant(wire.JSON),
    "CBOR": Variant(wire.CBOR),
    "JSON, deflate": Variant(wire.JSON, wire.WINDOWS[0]),
    "CBOR, deflate": Variant(wire.CBOR, wire.WINDOWS[0]),
}
ROOM = "forms"
TURNS = 3  # batches that each room gets
BATCH = 30  # messages of which the CPU time is read together
FIRST, MORE = 30, 300  # members before a measurement of memory, and in it
AT_ONCE = 50  # connections that are opened together
PATIENCE = 10.0  # seconds until all members must be in the room
MEMORY = "process_resident_memory_bytes"
SYMBOLS = ("ACME", "INIT", "LOOP", "ZINC", "WIRE", "NODE")


def quotes(number: int) -> list[dict[str, Any]]:
    """Return the payload of message ``number``: prices, as a feed of them sends."""
    draw = random.Random(number)
    return [
        {
            "symbol": symbol,
            "bid": round(draw.uniform(90, 100), 2),
            "ask": round(draw.uniform(100, 110), 2),
            "size": draw.randrange(1000),
        }
        for symbol in SYMBOLS
    ]


class Member(asyncio.Protocol):
    """A client that joins a room, and then discards what it gets.

    Attributes:
        agreed: What the handshake agreed on, once it is over.
        joined: Done when the client is in the room.

    """

    def __init__(self, server: Replica, variant: Variant, room: str) -> None:
        self.room = room
        # This says that a compressor may be kept, as browsers do; the server declines.
        deflate = ClientPerMessageDeflateFactory(client_max_window_bits=True)
        self.protocol = ClientProtocol(
            parse_uri(server.url),
            extensions=[deflate] if variant.window_bits else None,
            subprotocols=[Subprotocol(variant.subprotocol)],
            max_size=None,
        )
        self.request = self.protocol.connect()
        self.request.headers["Authorization"] = f"Bearer {server.token()}"
        self.agreed: Variant | None = None
        self.joined = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # also one of uvloop
        self.protocol.send_request(self.request)
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self.joined.done():
            return
        self.protocol.receive_data(data)
        events = self.protocol.events_received()
        if self.agreed is None and self.protocol.state is State.OPEN:
            protocol = self.protocol
            self.agreed = wire.negotiated(protocol.subprotocol, protocol.extensions)
            self._join()
        if any(b"joined" in each.data for each in events if isinstance(each, Frame)):
            self.joined.set_result(None)
        self._flush()

    def _join(self) -> None:
        message = {"type": "join", "room": self.room}
        if self.protocol.subprotocol == wire.CBOR:
            self.protocol.send_binary(cbor2.dumps(message))
        else:
            self.protocol.send_text(to_json(message).encode())

    def _flush(self) -> None:
        if data := b"".join(self.protocol.data_to_send()):
            self.transport.write(data)


@asynccontextmanager
async def members(
    server: Replica, count: int, variant: Variant, room: str = ROOM
) -> AsyncIterator[list[Member]]:
    """Connect members of one room that ask for frames of one variant.

    Raises:
        TimeoutError: They are not in the room within ten seconds.

    """
    loop, place = asyncio.get_running_loop(), urlsplit(server.url)
    host, port = place.hostname or "", place.port or 0
    there: list[Member] = []
    try:
        async with asyncio.timeout(PATIENCE):
            for start in range(0, count, AT_ONCE):
                pairs = await asyncio.gather(
                    *(
                        loop.create_connection(
                            partial(Member, server, variant, room), host, port
                        )
                        for _ in range(min(AT_ONCE, count - start))
                    )
                )
                there += [member for _, member in pairs]
                await asyncio.gather(*(member.joined for _, member in pairs))
        yield there
    finally:
        for each in there:
            each.transport.abort()


@dataclass(frozen=True)
class Growth:
    """CPU time of the server for one message, in a room that grows.

    Attributes:
        members: Sizes of the room.
        taken: Microseconds for each message, by size.

    """

    members: list[int]
    taken: list[float]

    def __repr__(self) -> str:
        start, slope = line_through(self.members, self.taken)
        return f"T = {start:.0f} µs + {slope:.1f} µs · N"


async def growth(
    servers: Mapping[str, Mapping[str, str]], sizes: Sequence[int] = (1, 30, 60)
) -> dict[str, Growth]:
    """Measure the CPU time of quotes sent one at a time, to rooms of several sizes.

    All rooms of all servers get their messages in turns: a machine that is slower for a
    while is so for each of them. A cost is the least of some batches: what disturbs a
    machine only adds to it.

    Args:
        servers: By name, the ``form`` that the members ask for, a name of ``FORMS``,
            and options as for :func:`running`, such as a ``mistake``.
        sizes: Members of each room; the publisher is not among them.

    """
    async with AsyncExitStack() as stack:
        places = dict[str, tuple[Replica, Peer]]()
        for name, options in servers.items():
            more: dict[str, Any] = {"message_rate_limit": 0, **options}
            variant = FORMS[more.pop("form")]
            server = await stack.enter_async_context(running("rooms", **more))
            places[name] = (
                server,
                await stack.enter_async_context(connected(server, "ann")),
            )
            for size in sizes:
                there = members(server, size, variant, _room(size))
                await stack.enter_async_context(there)
        turns = [
            {
                name: [await _cost(*place, size, turn * BATCH) for size in sizes]
                for name, place in places.items()
            }
            for turn in progress(range(TURNS), "turns")
        ]
    return {
        name: Growth(
            list(sizes),
            [min(costs) for costs in zip(*(each[name] for each in turns), strict=True)],
        )
        for name in servers
    }


async def _cost(server: Replica, publisher: Peer, size: int, first: int) -> float:
    """Return the microseconds of CPU for each message of a batch."""
    before = await used(server.pid)
    for number in range(first, first + BATCH):
        await _publish(publisher, number, _room(size))
    return (await used(server.pid) - before) / BATCH * 1e6


def _room(size: int) -> str:
    return f"{ROOM}-{size}"


async def footprint(form: str) -> float:
    """Return the kilobytes of server memory for a member that has heard a message.

    Args:
        form: A name of ``FORMS``: what the members ask for.

    """
    async with (
        running("rooms") as server,
        connected(server, "ann") as ann,
        members(server, FIRST, FORMS[form]),
    ):
        await _publish(ann, 1)
        before = await server.metric(MEMORY)
        async with members(server, MORE, FORMS[form]):
            await _publish(ann, 2)
            return (await server.metric(MEMORY) - before) / MORE / 1000


async def _publish(peer: Peer, number: int, room: str = ROOM) -> None:
    await peer.ask(type="publish", room=room, payload=quotes(number))
    peer.received.clear()
