"""Places: counted from the accepted socket to the closed one, on either port."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from labserver.errors import Refused
from labserver.processes.cluster import running_replica
from labserver.server.places import STANDING, Places
from tests.conftest import DEADLINE, SECRET, Running, eventually
from tests.support.plain_http import ask, port_of
from tests.support.raw_sockets import bearer, raw, raw_peer, upgrade

LIMIT = 8


def give_up(port: int, request: bytes, reset: bool) -> None:
    """Send a request, and close the socket before the server can have read it."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
        if reset:
            linger = struct.pack("ii", 1, 0)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.sendall(request)


@pytest.mark.parametrize("limit", ["--connection-limit", "--address-limit"])
@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
async def test_peers_that_give_up_while_the_server_stands_still_leave_no_place_taken(
    reset: bool, limit: str
) -> None:
    async with running_replica(
        "auth", limit, str(LIMIT), environment={"LAB_SECRET": SECRET}
    ) as server:
        port = int(server.url.rpartition(":")[2])
        os.kill(server.pid, signal.SIGSTOP)
        for _ in range(3 * LIMIT):
            give_up(port, upgrade("/", bearer()), reset)
        os.kill(server.pid, signal.SIGCONT)

        async def takes_as_many_as_it_should() -> bool:
            async with AsyncExitStack() as stack:
                clients = [
                    await stack.enter_async_context(raw(port, upgrade("/", bearer())))
                    for _ in range(LIMIT)
                ]
                return {await client.head() for client in clients} == {101}

        await eventually(takes_as_many_as_it_should)


async def test_header_of_a_peer_that_is_gone_is_not_trusted(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """The server cannot read its address any more: it may not be a trusted proxy."""
    caplog.set_level("INFO", "labserver")
    forged = upgrade("/", "X-Forwarded-For: 203.0.113.5")
    async with running("auth", trusted_proxies=("10.0.0.0/8",)) as server:
        for number in range(20):  # no await: the server stands still
            give_up(server.port, forged, reset=number % 2 == 0)
        async with raw_peer(server):  # accepted after them
            await eventually(lambda: len(server.sockets) == 1)
    refused = [each for each in caplog.records if each.msg == "handshake refused"]
    assert {each.address for each in refused} <= {"127.0.0.1", "unknown"}


@asynccontextmanager
async def silent(port: int, count: int) -> AsyncIterator[None]:
    """Keep sockets open that send nothing."""
    async with AsyncExitStack() as stack:
        for _ in range(count):
            await stack.enter_async_context(raw(port))
        yield


@pytest.mark.parametrize(
    ("settings", "status"),
    [({"connection_limit": 2}, 503), ({"address_limit": 2}, 429)],
    ids=["in all", "of one address"],
)
@pytest.mark.parametrize("door", ["websocket", "sse"])
async def test_socket_in_handshake_has_a_place(
    door: str, settings: dict[str, int], status: int, running: Running
) -> None:
    async with running("rooms", sse_port=0, **settings) as server:
        places = server.parts.admission.places
        port = server.port if door == "websocket" else port_of(server)
        async with silent(port, 2):
            await eventually(lambda: places.taken == 2)
            async with raw(server, upgrade("/", bearer())) as late:
                assert await late.head() == status
            assert (await ask(server, "GET", "/rooms/a/poll?wait=0")).status == status
            # A health check needs no place.
            health = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
            async with raw(server, health) as probe:
                assert await probe.head() == 200
            assert (await ask(server, "GET", "/healthz")).status == 200
        await eventually(lambda: places.taken == 0)
        async with raw_peer(server), raw_peer(server):
            pass


async def test_sockets_without_a_place_are_few(running: Running) -> None:
    async with running("auth", connection_limit=5) as server, raw_peer(server):
        async with silent(server.port, 100):
            await eventually(lambda: len(server.sockets) == 5 + STANDING)
            async with raw(server, upgrade("/", bearer())) as late:
                assert await late.head() == 503
            assert len(server.connections) == 1
        async with raw_peer(server):
            pass


async def test_refused_and_plain_requests_keep_no_place(running: Running) -> None:
    async with running("auth", connection_limit=1) as server, AsyncExitStack() as stack:
        for request in (upgrade("/"), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
            client = await stack.enter_async_context(raw(server, request))
            assert await client.head() in (401, 200)  # the client does not hang up
        async with raw_peer(server):
            pass


async def test_requests_behind_a_proxy_count_for_their_clients(
    running: Running,
) -> None:
    """One socket of a proxy carries requests of many clients, one after another."""

    def asked(client: str) -> bytes:
        lines = ("GET /rooms/a/poll?wait=0 HTTP/1.1", "Host: a", bearer())
        return "\r\n".join([*lines, f"X-Forwarded-For: {client}", "", ""]).encode()

    async with running(
        "rooms", sse_port=0, address_limit=1, trusted_proxies=("127.0.0.1",)
    ) as server:
        places = server.parts.admission.places
        async with raw(port_of(server)) as one, raw(port_of(server)) as two:
            for proxy, client in ((one, "1.1.1.1"), (two, "1.1.1.1"), (one, "2.2.2.2")):
                proxy.headers.clear()
                proxy.send(asked(client))
                assert await proxy.head() == 200
                size = int(proxy.headers["content-length"])
                await proxy.reader.readexactly(size)
                await eventually(lambda: not places.addresses)
            assert places.taken == 2
        await eventually(lambda: places.taken == 0)


def test_place_of_a_closed_socket_cannot_be_claimed() -> None:
    places = Places(2, 2)
    place = places.arrive(None, lambda: None)
    places.leave(place)
    with pytest.raises(Refused):
        places.claim(place, "1.1.1.1")
    places.leave(place)
    assert (places.taken, places.addresses) == (0, {})


def test_oldest_that_stands_goes_for_the_newest() -> None:
    places = Places(limit=1)
    ended: list[int] = []
    stays = places.arrive("1.1.1.1", lambda: None)
    for number in range(STANDING + 2):
        places.arrive("1.1.1.1", lambda n=number: ended.append(n))
    assert ended == [0, 1]
    places.leave(stays)
    assert len(places.standing) == STANDING
