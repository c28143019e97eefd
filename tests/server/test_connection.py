"""How a connection ends, whatever its peer does meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time

from labserver.contract.closing import FORBIDDEN
from labserver.contract.tokens import issue
from labserver.judge.world import connection_of
from labserver.server.connection import GOODBYE_TIMEOUT
from labserver.server.server import LabServer
from tests.conftest import SECRET, Running, eventually, peer
from tests.support.raw_sockets import (
    BINARY,
    CLOSE,
    CONTINUATION,
    TEXT,
    Raw,
    bearer,
    masked,
    raw,
    raw_peer,
    said,
    upgrade,
)

# What ends a connection: a goodbye, or what no client may send.
ENDS = {
    "close": masked(CLOSE, b"\x03\xe8"),
    "close inside a message": masked(TEXT, b"[", fin=False) + masked(CLOSE),
    "reserved bit": masked(TEXT, b"1", rsv=4),
    "no mask": b"\x81\x011",
    "nothing to continue": masked(CONTINUATION, b"1"),
    "not UTF-8": masked(TEXT, b"\xff"),
    "too big": masked(TEXT, b"1" * 70_000),
    "binary": masked(BINARY, b"1"),
    "our goodbye": b"",
}


async def trickle(client: Raw) -> None:
    """Give signs of life, a byte at a time, until the socket is closed."""
    while not client.writer.is_closing():
        client.send(b"\x81")
        await asyncio.sleep(0.05)


async def test_who_is_at_its_end_leaves_its_rooms_at_once_and_its_socket_soon(
    running: Running,
) -> None:
    async with running("rooms") as server:

        async def die(end: str) -> None:
            handshake = upgrade("/", bearer(issue(SECRET, end)))
            async with raw(server, handshake) as client:
                await client.head()
                await client.frame()
                client.send(said(type="join", room="a"))
                assert (await client.message())["type"] == "joined"
                connection = connection_of(server, end)
                started = time.monotonic()
                if end == "our goodbye":
                    connection.end(FORBIDDEN)
                client.send(ENDS[end])
                dying = asyncio.create_task(trickle(client))
                await eventually(lambda: not connection.rooms)
                assert connection in server.sockets, f"{end}: the socket is closed"
                await eventually(lambda: connection not in server.sockets)
                took = time.monotonic() - started
                assert GOODBYE_TIMEOUT - 0.5 < took < GOODBYE_TIMEOUT + 2, end
                dying.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await dying

        await asyncio.gather(*map(die, ENDS))
        assert not server.hub.rooms


async def test_zombie_is_not_seen_and_gives_its_place_back(running: Running) -> None:
    async with (
        running("resume", without=("broker",), connection_limit=2) as server,
        peer(server, "bob") as bob,
        raw_peer(server) as client,
    ):
        client.send(said(type="join", room="a", presence=True))
        assert (await client.message())["type"] == "joined"
        await bob.join("a", presence=True)
        assert (await bob.until("present"))["count"] == 2
        client.send(masked(CLOSE))
        dying = asyncio.create_task(trickle(client))
        left = (await bob.until("presence"))["left"]
        assert [each["user"] for each in left] == ["ann"]
        await eventually(lambda: server.parts.admission.places.taken == 1)
        dying.cancel()
        async with raw_peer(server):
            pass


async def test_who_hangs_up_without_reading_is_not_waited_for(
    running: Running,
) -> None:
    """Its end of the stream has come, but what lies in the buffer is never taken."""

    def held(server: LabServer) -> int:
        return connection_of(server, "ann").transport.get_write_buffer_size()

    async with running("rooms", send_buffer=4096) as server, raw_peer(server) as client:
        client.writer.transport.pause_reading()
        connection_of(server, "ann").transport.write(bytes(8_000_000))
        await eventually(lambda: held(server) > 0)
        client.writer.write_eof()
        async with asyncio.timeout(GOODBYE_TIMEOUT + 2):
            await eventually(lambda: not server.sockets and not server.connections)


async def test_what_was_said_before_a_goodbye_is_served(running: Running) -> None:
    async with running("resume") as server, peer(server, "bob") as bob:
        await bob.join("a")
        async with raw_peer(server) as client:
            said_ = [said(type="publish", room="a", payload=n) for n in range(10)]
            client.send(b"".join([*said_, masked(CLOSE, b"\x03\xe8")]))
            for number in range(10):
                assert (await bob.until("message"))["payload"] == number


async def test_who_left_while_it_joined_is_no_member(running: Running) -> None:
    async with running("rooms") as server:
        broker, asked, go_on = server.parts.broker, asyncio.Event(), asyncio.Event()
        read = broker.read

        async def slow(room: str, after: int | None) -> object:
            asked.set()
            await go_on.wait()
            return await read(room, after)

        for again in (False, True):
            broker.read = read  # type: ignore[method-assign]
            async with raw_peer(server) as client:
                if again:
                    client.send(said(type="join", room="a"))
                    await client.message()
                broker.read = slow  # type: ignore[assignment, method-assign]
                asked.clear()
                go_on.clear()
                connection = connection_of(server, "ann")
                client.send(said(type="join", room="a"))
                await asked.wait()
                client.send(masked(CLOSE))
                await eventually(lambda c=connection: c.gone)
                go_on.set()
                await eventually(lambda: not server.hub.rooms)
                assert not connection.rooms
            await eventually(lambda: not server.connections)
