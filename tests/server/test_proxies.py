"""Where a client is: what a trusted proxy says, and nothing that anybody else says."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from labserver.contract.tokens import issue
from labserver.errors import SettingsError
from labserver.server.proxies import (
    HOPS_LIMIT,
    V1_LIMIT,
    V2_LIMIT,
    V2_START,
    BadHeader,
    Proxies,
    read_header,
)
from labserver.server.server import LabServer
from labserver.settings import Settings, from_environment
from tests.conftest import DEADLINE, SECRET, Running, eventually
from tests.support.plain_http import ask, port_of, request

PROXIES = Proxies(("10.0.0.0/8", "192.0.2.1", "fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        # From a stranger the header is worth nothing.
        ("203.0.113.9", ["198.51.100.7"], "203.0.113.9"),
        ("unix", ["198.51.100.7"], "unix"),
        # From a proxy, the rightmost address that is not a proxy's.
        ("10.1.1.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.1.1.1", ["1.2.3.4, 198.51.100.7"], "198.51.100.7"),
        ("10.1.1.1", ["1.2.3.4", "198.51.100.7, 192.0.2.1"], "198.51.100.7"),
        ("fd00::1", ["2001:db8::7"], "2001:db8::7"),
        ("::ffff:10.1.1.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.1.1.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        # With a port, as some write it.
        ("10.1.1.1", ["198.51.100.7:4711"], "198.51.100.7"),
        ("10.1.1.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        # What is no address ends the search at the last that is vouched for.
        ("10.1.1.1", ["unknown"], "10.1.1.1"),
        ("10.1.1.1", [""], "10.1.1.1"),
        ("10.1.1.1", ["198.51.100.7, nonsense, 10.2.2.2"], "10.2.2.2"),
        # Proxies only: the one that is farthest away.
        ("10.1.1.1", ["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
        ("10.1.1.1", [], "10.1.1.1"),
    ],
)
def test_client_is_the_rightmost_that_is_no_proxy(
    peer: str, forwarded: list[str], client: str
) -> None:
    assert PROXIES.client_of(peer, forwarded) == client


def test_number_of_hops_is_bounded() -> None:
    forwarded = ", ".join(["198.51.100.7", *["10.1.1.1"] * HOPS_LIMIT])
    assert PROXIES.client_of("10.1.1.1", [forwarded]) == "10.1.1.1"
    shorter = forwarded.removesuffix(", 10.1.1.1")
    assert PROXIES.client_of("10.1.1.1", [shorter]) == "198.51.100.7"


@given(st.lists(st.text(max_size=40), max_size=5))
def test_no_header_is_an_error(forwarded: list[str]) -> None:
    assert PROXIES.client_of("10.1.1.1", forwarded)


def v2(
    source: str = "198.51.100.7", command: int = 0x21, more: bytes = b"", size: int = 0
) -> bytes:
    """Return a PROXY header of version 2."""
    six = ":" in source
    family = socket.AF_INET6 if six else socket.AF_INET
    packed = socket.inet_pton(family, source)
    body = packed + packed + b"\x10\x00\x00\x50" + more
    length = size or len(body)
    kind = 0x21 if six else 0x11
    return V2_START + bytes((command, kind)) + length.to_bytes(2, "big") + body


HEADERS = {
    "tcp4": (b"PROXY TCP4 198.51.100.7 10.0.0.1 4711 80\r\n", "198.51.100.7"),
    "tcp6": (b"PROXY TCP6 2001:db8::7 fd00::1 4711 80\r\n", "2001:db8::7"),
    "unknown": (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
    "short": (b"PROXY UNKNOWN\r\n", None),
    "binary4": (v2(), "198.51.100.7"),
    "binary6": (v2("2001:db8::7"), "2001:db8::7"),
    "more": (v2(more=b"\x04\x00\x03abc"), "198.51.100.7"),
    "local": (v2(command=0x20), None),
}


@pytest.mark.parametrize("name", HEADERS)
def test_header_is_read_to_its_end_and_no_further(name: str) -> None:
    header, address = HEADERS[name]
    for end in range(1, len(header)):
        assert read_header(header[:end]) is None
    assert read_header(header) == (address, len(header))
    assert read_header(header + b"GET / HTTP/1.1") == (address, len(header))


BAD = {
    "http": b"GET / HTTP/1.1\r\n",
    "hello of TLS": b"\x16\x03\x01\x02\x00",
    "no address": b"PROXY TCP4 nonsense 10.0.0.1 1 2\r\n",
    "another family": b"PROXY TCP4 2001:db8::7 fd00::1 1 2\r\n",
    "too few words": b"PROXY TCP4 198.51.100.7\r\n",
    "not ASCII": b"PROXY TCP4 \xff 10.0.0.1 1 2\r\n",
    "no end": b"PROXY TCP4 " + b"1" * V1_LIMIT,
    "end too late": b"PROXY UNKNOWN " + b"1" * V1_LIMIT + b"\r\n",
    "another version": v2(command=0x31),
    "another command": v2(command=0x22),
    "too long": v2(size=V2_LIMIT),
    "too short": v2()[:14] + b"\0\4" + v2()[16:],
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_header_is_refused(name: str) -> None:
    with pytest.raises(BadHeader):
        read_header(BAD[name])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_refused_or_go_on(data: bytes) -> None:
    for start in (b"", b"PROXY TCP4 ", V2_START):
        try:
            found = read_header(start + data)
        except BadHeader:
            continue
        assert found is None or found[1] <= len(start + data)


async def connected(
    server: LabServer, before: bytes = b"", **headers: str
) -> ClientConnection:
    """Connect, with some bytes before the handshake."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE)
    sock.sendall(before)
    sock.setblocking(False)
    token = {"Authorization": f"Bearer {issue(SECRET, 'ann')}"}
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        return await connect(
            f"ws://127.0.0.1:{server.port}/",
            sock=sock,
            additional_headers=token | more,
            ping_interval=None,
            proxy=None,
        )
    except BaseException:
        sock.close()
        raise


def addresses(server: LabServer) -> set[str]:
    return {connection.address for connection in server.connections}


async def test_cap_is_on_the_client_behind_a_trusted_proxy(running: Running) -> None:
    async with running(
        "auth", address_limit=1, trusted_proxies=("127.0.0.1",)
    ) as server:
        one = await connected(server, X_Forwarded_For="198.51.100.1")
        two = await connected(server, X_Forwarded_For="evil, 198.51.100.2")
        assert addresses(server) == {"198.51.100.1", "198.51.100.2"}
        with pytest.raises(InvalidStatus) as refused:  # whatever it puts on the left
            await connected(server, X_Forwarded_For="198.51.100.9, 198.51.100.1")
        assert refused.value.response.status_code == 429
        await one.close()
        await eventually(lambda: addresses(server) == {"198.51.100.2"})
        again = await connected(server, X_Forwarded_For="198.51.100.1")
        await again.close()
        await two.close()


async def test_addresses_of_one_ipv6_network_are_one_client(running: Running) -> None:
    async with running(
        "auth", address_limit=1, trusted_proxies=("127.0.0.1",)
    ) as server:
        one = await connected(server, X_Forwarded_For="2001:db8:1:2::1")
        with pytest.raises(InvalidStatus) as refused:
            await connected(server, X_Forwarded_For="2001:db8:1:2:ffff::7")
        assert refused.value.response.status_code == 429
        two = await connected(server, X_Forwarded_For="2001:db8:1:3::1")
        await one.close()
        await eventually(lambda: len(server.connections) == 1)
        again = await connected(server, X_Forwarded_For="2001:db8:1:2::7")
        await again.close()
        await two.close()


async def test_event_streams_are_capped_by_client_too(running: Running) -> None:
    async with (
        running(
            "rooms", address_limit=1, trusted_proxies=("127.0.0.1",), sse_port=0
        ) as server,
        await connected(server, X_Forwarded_For="198.51.100.1"),
    ):
        said = await ask(
            server, "GET", "/rooms/a", headers={"X-Forwarded-For": "198.51.100.1"}
        )
        assert said.status == 429
        said = await ask(
            *(server, "GET", "/rooms/a/poll?wait=0"),
            headers={"X-Forwarded-For": "198.51.100.2"},
        )
        assert said.status == 200


async def test_header_of_a_stranger_is_worth_nothing(running: Running) -> None:
    async with running(
        "auth", address_limit=1, trusted_proxies=("10.0.0.0/8",)
    ) as server:
        one = await connected(server, X_Forwarded_For="198.51.100.1")
        assert addresses(server) == {"127.0.0.1"}
        with pytest.raises(InvalidStatus) as refused:
            await connected(server, X_Forwarded_For="198.51.100.2")
        assert refused.value.response.status_code == 429
        await one.close()


@pytest.mark.parametrize("name", HEADERS)
async def test_proxy_header_says_where_the_client_is(
    name: str, running: Running
) -> None:
    header, address = HEADERS[name]
    async with running(
        "auth", trusted_proxies=("127.0.0.1",), proxy_protocol=True
    ) as server:
        client = await connected(server, header)
        assert addresses(server) == {address or "127.0.0.1"}
        # The client is no proxy: what it forwards counts only if it is one.
        await client.close()


async def test_client_that_a_proxy_header_names_is_not_believed_in_turn(
    running: Running,
) -> None:
    async with running(
        "auth", trusted_proxies=("127.0.0.1", "10.0.0.0/8"), proxy_protocol=True
    ) as server:
        header, address = HEADERS["tcp4"]
        client = await connected(server, header, X_Forwarded_For="203.0.113.5")
        assert addresses(server) == {address}
        await client.close()
        await eventually(lambda: not server.connections)
        inner = b"PROXY TCP4 10.9.9.9 10.0.0.1 4711 80\r\n"  # one proxy behind another
        client = await connected(server, inner, X_Forwarded_For="203.0.113.5")
        assert addresses(server) == {"203.0.113.5"}
        await client.close()


async def test_header_may_come_in_pieces(running: Running) -> None:
    async with running(
        "auth", trusted_proxies=("127.0.0.1",), proxy_protocol=True
    ) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        request = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
        for byte in v2() + request:
            writer.write(bytes((byte,)))
            await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        await writer.wait_closed()


async def answer(server: LabServer | int, data: bytes) -> bytes:
    """Return all that comes back for some bytes, until the server hangs up."""
    port = server if isinstance(server, int) else server.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        writer.write(data)
        try:
            async with asyncio.timeout(DEADLINE):
                return await reader.read()
        except ConnectionResetError:
            return b""


async def test_trusted_proxy_must_send_a_header(running: Running) -> None:
    async with running(
        "auth", trusted_proxies=("127.0.0.1",), proxy_protocol=True
    ) as server:
        request = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
        assert await answer(server, request) == b""
        assert b"200" in await answer(server, HEADERS["short"][0] + request)


async def test_header_that_does_not_end_meets_the_deadline(running: Running) -> None:
    async with running(
        *("auth",),
        trusted_proxies=("127.0.0.1",),
        proxy_protocol=True,
        handshake_timeout=0.2,
    ) as server:
        assert await answer(server, V2_START) == b""
        await eventually(lambda: not server.sockets)


@pytest.mark.parametrize("header", ["tcp4", "binary4"])
async def test_proxy_header_of_a_stranger_is_a_bad_request(
    header: str, running: Running
) -> None:
    async with running(
        "auth", trusted_proxies=("10.0.0.0/8",), proxy_protocol=True
    ) as server:
        request = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
        said = await answer(server, HEADERS[header][0] + request)
        assert b"200 OK" not in said
        assert b"200 OK" in await answer(server, request)  # no header is asked of it


async def test_proxy_header_is_read_on_the_port_of_event_streams_too(
    running: Running,
) -> None:
    asked = request("POST", "/rooms/a", b"1", {"X-Forwarded-For": "203.0.113.5"})
    async with running(
        *("rooms",),
        trusted_proxies=("127.0.0.1",),
        proxy_protocol=True,
        address_limit=1,
        handshake_timeout=0.5,
        sse_port=0,
    ) as server:
        port = port_of(server)
        # Who speaks first in the name of a proxy must be one: no header, no answer.
        assert await answer(port, asked) == b""
        assert await answer(port, V2_START) == b""
        async with await connected(server, HEADERS["tcp4"][0]):
            assert b"429" in await answer(port, HEADERS["tcp4"][0] + asked)
            assert b"200 OK" in await answer(port, HEADERS["tcp6"][0] + asked)
            # A health check of the proxy itself.
            assert b"200 OK" in await answer(port, HEADERS["local"][0] + asked)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LAB_TRUSTED_PROXIES", "10.0.0.0/99"),
        ("LAB_TRUSTED_PROXIES", "router"),
        ("LAB_PROXY_PROTOCOL", "perhaps"),
        ("LAB_PROXY_PROTOCOL", "1"),  # and nobody is trusted
    ],
)
def test_bad_setting_names_its_variable(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=name):
        from_environment({name: text})


def test_switch_is_read_from_the_environment() -> None:
    trusted = {"LAB_TRUSTED_PROXIES": "unix, 10.0.0.0/8"}
    chosen = from_environment({**trusted, "LAB_PROXY_PROTOCOL": "Yes"})
    assert chosen.proxy_protocol
    assert chosen.trusted_proxies == ("unix", "10.0.0.0/8")
    assert not from_environment({**trusted, "LAB_PROXY_PROTOCOL": "off"}).proxy_protocol
    assert not Settings().proxy_protocol
