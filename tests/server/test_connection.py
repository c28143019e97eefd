"""How a connection ends, whatever its peer does."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import time
import weakref
from contextlib import AsyncExitStack

import pytest

from labserver.contract.closing import FORBIDDEN
from labserver.contract.tokens import issue
from labserver.judge.world import connection_of
from labserver.processes.cluster import running_replica
from labserver.server.member import GOODBYE_TIMEOUT
from labserver.server.server import LabServer
from tests.conftest import SECRET, Running, eventually, peer
from tests.support.raw_sockets import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Raw,
    bearer,
    masked,
    raw,
    raw_peer,
    said,
    upgrade,
)

# Bytes that end a connection: a goodbye, or frames that no client may send.
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
    """Send one byte after another until the socket is closed."""
    while not client.writer.is_closing():
        client.send(b"\x81")
        await asyncio.sleep(0.05)


async def test_connection_that_ends_leaves_its_rooms_at_once_and_its_socket_soon(
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


async def test_bytes_that_look_like_a_pong_are_a_part_of_their_message(
    running: Running,
) -> None:
    """An answer to a ping that comes alone goes a short way, but only as a frame."""
    async with running("echo") as server, raw_peer(server) as client:
        (connection,) = server.connections
        text = b'"ping"'
        like = masked(PONG)[:2]
        mask = bytes((like[0] ^ text[0], like[1] ^ text[1], 0, 0))
        wire = bytes(a ^ b for a, b in zip(text, mask + mask, strict=False))
        assert len(wire) == len(masked(PONG))
        for piece in (masked(PONG), masked(PONG), bytes((0x81, 0x86)) + mask, wire):
            before = connection.seen
            client.send(piece)
            await eventually(lambda: connection.seen > before)  # noqa: B023
        assert await client.message() == {"type": "echo", "payload": "ping"}


async def test_connection_that_has_ended_is_freed_at_once(running: Running) -> None:
    gc.disable()  # a connection in a reference cycle would wait for it
    try:
        async with running("resume") as server:
            async with peer(server):
                ended = weakref.ref(connection_of(server, "ann"))
            await eventually(lambda: ended() is None, within=2.0)
    finally:
        gc.enable()


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


async def test_peer_that_hangs_up_without_reading_is_not_waited_for(
    running: Running,
) -> None:
    """Its end of the stream has arrived, but it never takes the server's buffer."""

    def held(server: LabServer) -> int:
        return connection_of(server, "ann").transport.get_write_buffer_size()

    async with running("rooms", send_buffer=4096) as server, raw_peer(server) as client:
        client.writer.transport.pause_reading()
        connection_of(server, "ann").transport.write(bytes(8_000_000))
        await eventually(lambda: held(server) > 0)
        client.writer.write_eof()
        async with asyncio.timeout(GOODBYE_TIMEOUT + 2):
            await eventually(lambda: not server.sockets and not server.connections)


async def test_messages_before_a_goodbye_are_served(running: Running) -> None:
    async with running("resume") as server, peer(server, "bob") as bob:
        await bob.join("a")
        async with raw_peer(server) as client:
            said_ = [said(type="publish", room="a", payload=n) for n in range(10)]
            client.send(b"".join([*said_, masked(CLOSE, b"\x03\xe8")]))
            for number in range(10):
                assert (await bob.until("message"))["payload"] == number


async def test_client_that_left_during_its_join_is_no_member(running: Running) -> None:
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


# Before the end: messages that begin and do not end


@pytest.mark.parametrize(
    "begun",
    [masked(TEXT, b'"', fin=False), masked(TEXT, b"1" * 200)[:-1], b"\x81"],
    ids=["fragment", "frame", "head of a frame"],
)
async def test_message_that_began_must_come_to_its_end(
    begun: bytes, running: Running
) -> None:
    async with running("echo", handshake_timeout=0.4) as server:
        async with raw_peer(server) as client:
            client.send(begun)
            if begun[0] == TEXT:  # a ping may stand between fragments only
                pings = asyncio.create_task(ping_on(client))
            assert await client.close_code() == 4409
            if begun[0] == TEXT:
                pings.cancel()
        # A message that comes slowly, and a stream of messages without a pause.
        async with raw_peer(server) as client:
            for _ in range(10):
                client.send(masked(TEXT, b"1" * 200)[100:] if _ else b"")
                client.send(masked(TEXT, b"1" * 200)[:100])
                await asyncio.sleep(0.1)
            client.send(masked(TEXT, b"1" * 200)[100:])
            for _ in range(10):
                assert json.loads((await client.frame())[1])["type"] == "echo"


async def ping_on(client: Raw) -> None:
    """Send pings until the socket is closed."""
    while not client.writer.is_closing():
        client.send(masked(PING))
        await asyncio.sleep(0.05)


async def test_message_is_not_late_because_the_server_is(running: Running) -> None:
    async with (
        running("echo", handshake_timeout=0.3) as server,
        raw_peer(server) as client,
    ):
        text = masked(TEXT, b"1" * 200)
        client.send(text[:100])
        await eventually(lambda: any(each.unfinished() for each in server.connections))
        client.send(text[100:])
        time.sleep(0.5)  # noqa: ASYNC251 - the server stands still
        assert json.loads((await client.frame())[1])["type"] == "echo"


async def test_fragments_of_a_message_cost_what_they_hold() -> None:
    count, fragments = 30, 3000
    async with running_replica(
        *("auth", "--message-rate-limit", "0"), environment={"LAB_SECRET": SECRET}
    ) as server:
        port = int(server.url.rpartition(":")[2])
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(raw_peer(port)) for _ in range(count)
            ]
            before = await server.metric("process_resident_memory_bytes")
            empty = masked(TEXT, b"", fin=False)
            empty += fragments * masked(CONTINUATION, b"", fin=False)
            for client in clients:
                client.send(empty + masked(PING))
                assert await client.frame() == (0x80 | PONG, b"")
            grown = await server.metric("process_resident_memory_bytes") - before
            assert grown < count * fragments * 30  # frame objects hold 150 bytes each
            clients[0].send(masked(CONTINUATION, b"1"))
            echo = json.loads((await clients[0].frame())[1])
            assert echo == {"type": "echo", "payload": 1}


LINE = b"X-A: " + b"a" * 4000 + b"\r\n"


@pytest.mark.parametrize("pause", [True, False], ids=["in pieces", "at once"])
async def test_handshake_has_16_kilobytes(pause: bool, running: Running) -> None:
    start = upgrade("/", bearer())[:-2]
    async with running("auth") as server:
        async with raw(server, start) as client:
            for _ in range(3):  # below the limit, and then a large message at once
                client.send(LINE)
            client.send(b"\r\n" + masked(TEXT, b"1" * 60_000))
            assert await client.head() == 101
            await client.frame()
            assert len((await client.frame())[1]) > 60_000
        async with raw(server, start) as client:
            for _ in range(30):
                client.send(LINE)
                await asyncio.sleep(0.001 * pause)
            assert await client.head() == 431
            await client.rest()
        await eventually(lambda: not server.sockets)


async def test_sockets_in_handshake_hold_little() -> None:
    count, sent = 50, 500_000
    async with running_replica("auth") as server:
        port = int(server.url.rpartition(":")[2])
        before = await server.metric("process_resident_memory_bytes")
        async with AsyncExitStack() as stack:
            for _ in range(count):
                client = await stack.enter_async_context(raw(port))
                client.send(b"GET / HTTP/1.1\r\n" + LINE * (sent // len(LINE)))
            grown = await server.metric("process_resident_memory_bytes") - before
            assert grown < count * sent / 4
