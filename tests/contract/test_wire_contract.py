"""The wire contract from outside, with a plain client and with raw sockets."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
import os
import random
import signal
import socket
import struct
import sys
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import cbor2
import jwt
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from labserver.contract.messages import event
from labserver.contract.tokens import issue
from labserver.server.connection import LabConnection
from labserver.server.server import LabServer
from labserver.stages import STAGES
from tests.conftest import DEADLINE, SECRET, Peer, Running, eventually, peer
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

pytestmark = pytest.mark.loops("uvloop", "asyncio")

ALL = [*STAGES]
ECHO = ALL[:2]  # stages whose application is the echo
GUARDED = ALL[1:]  # stages that ask for a token
ROOMS = ALL[2:]
ENDS = ["echo", "resume"]


async def answer(server: LabServer | int, request: bytes) -> tuple[int, Raw, bytes]:
    """Return the response to a request, after checking that it is proper HTTP."""
    async with raw(server, request) as socket:
        status = await socket.head()
        body = await socket.rest()  # returns only when the server hangs up
    assert status != 101
    assert socket.headers["content-length"] == str(len(body))
    assert socket.headers["connection"] == "close"
    return status, socket, body


# Before the upgrade


@pytest.mark.parametrize("stage", GUARDED)
async def test_no_token_is_a_401_and_costs_no_socket(
    stage: str, running: Running
) -> None:
    async with running(stage) as server:
        status, socket, body = await answer(server, upgrade())
        assert status == 401
        assert socket.headers["www-authenticate"] == "Bearer"
        assert body
        assert not server.connections
        assert server.metrics.accepted == 0
        assert server.metrics.refused == {401: 1}


BAD_TOKENS = {
    "garbage": "abc",
    "empty": "",
    "of another secret": issue("another secret of thirty-two bytes!!", "ann"),
    "expired": jwt.encode({"sub": "ann", "exp": 1}, SECRET),
    "unsigned": jwt.encode({"sub": "ann", "exp": 1 << 40}, None, algorithm="none"),
    "without expiry": jwt.encode({"sub": "ann"}, SECRET),
    "not text": "\xff\xfe",
}


@pytest.mark.parametrize("token", BAD_TOKENS.values(), ids=BAD_TOKENS)
async def test_bad_token_is_a_401(token: str, running: Running) -> None:
    async with running("auth") as server:
        status, _, body = await answer(
            server, upgrade("/", f"Authorization: Bearer {token}")
        )
        assert status == 401
        assert not token or token.encode("latin-1") not in body


async def test_claim_that_makes_no_sense_is_a_403(running: Running) -> None:
    claims = {"sub": "ann", "exp": 1 << 40, "rooms": "lobby"}
    async with running("auth") as server:
        token = jwt.encode(claims, SECRET)
        status, *_ = await answer(server, upgrade("/", bearer(token)))
        assert status == 403


def places(token: str) -> dict[str, tuple[str, str]]:
    """Return the four places of a token, in the order of the contract."""
    return {
        "header": ("/", f"Authorization: Bearer {token}"),
        "cookie": ("/", f"Cookie: a=b; lab_token={token}; c=d"),
        "subprotocol": ("/", f"Sec-WebSocket-Protocol: lab.json, bearer.{token}"),
        "query": (f"/?a=b&token={token}", "X-Nothing: here"),
    }


@pytest.mark.parametrize("place", places(""))
async def test_token_is_taken_from_each_place(place: str, running: Running) -> None:
    path, header = places(issue(SECRET, "bob"))[place]
    async with (
        running("auth") as server,
        raw(server, upgrade(path, header)) as socket,
    ):
        assert await socket.head() == 101
        assert (await socket.message())["user"] == "bob"
        chosen = "lab.json" if place == "subprotocol" else None
        assert socket.headers.get("sec-websocket-protocol") == chosen


@pytest.mark.parametrize(
    ("first", "second"),
    [("header", "cookie"), ("cookie", "subprotocol"), ("subprotocol", "query")],
)
async def test_the_first_place_with_a_token_decides(
    first: str, second: str, running: Running
) -> None:
    async with running("auth") as server:
        for tokens, status in (
            ([issue(SECRET, "bob"), "abc"], 101),
            (["abc", issue(SECRET, "bob")], 401),
        ):
            (path, one), (query, two) = (
                places(token)[place]
                for token, place in zip(tokens, (first, second), strict=True)
            )
            path = query if second == "query" else path
            async with raw(server, upgrade(path, one, two)) as socket:
                assert await socket.head() == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://lab.example:8080", 101),
        ("https://lab.example:8080", 101),
        ("http://LAB.example:8080", 101),
        ("https://app.example", 101),
        ("http://app.example", 403),
        ("http://lab.example", 403),
        ("http://lab.example:8081", 403),
        ("http://lab.example.evil:8080", 403),
        ("http://evil/lab.example:8080", 403),
        ("http://lab.example:8080@evil", 403),
        ("null", 403),
        ("", 403),
        ("http://[", 403),
        ("http://a:b", 403),
        ("ftp://lab.example:8080", 403),
        ("ws://lab.example:8080", 403),
        ("http://ann@lab.example:8080", 403),
        ("http://lab.example:8080/", 403),
        ("http://lab.example:8080/page", 403),
        ("http://lab.example:8080?a=b", 403),
        ("http://lab.example:8080#top", 403),
        ("http://lab.example:8080\\@evil", 403),
        ("http://lab.example:8080 http://evil", 403),
    ],
)
async def test_browser_comes_from_the_same_host_or_the_allow_list(
    origin: str, status: int, running: Running
) -> None:
    async with running("auth", origins=("https://app.example",)) as server:
        request = upgrade("/", bearer(), "Host: lab.example:8080", f"Origin: {origin}")
        async with raw(server, request) as socket:
            assert await socket.head() == status


@pytest.mark.parametrize("host", ["", ":"])
@pytest.mark.parametrize("origin", ["null", "http://[", "http://"])
async def test_origin_and_host_that_mean_nothing_are_not_the_same(
    host: str, origin: str, running: Running
) -> None:
    async with running("auth") as server:
        request = upgrade("/", bearer(), f"Host: {host}", f"Origin: {origin}")
        status, *_ = await answer(server, request)
        assert status == 403


# Requests that are no upgrade, or an upgrade that cannot succeed


async def test_upgrade_of_another_version_hears_which_would_do(
    running: Running,
) -> None:
    async with running("auth") as server:
        for version in ("8", "13, 8", "", "14"):
            header = f"Sec-WebSocket-Version: {version}"
            status, socket, _ = await answer(server, upgrade("/", bearer(), header))
            assert status == 426
            assert socket.headers["sec-websocket-version"] == "13"
            assert socket.headers["upgrade"] == "websocket"
        assert server.metrics.accepted == 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "body",
    [
        "Content-Length: 0\r\n\r\n",
        "Content-Length: 5\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
    ids=["no body", "body", "chunks"],
)
async def test_other_methods_hear_which_there_are(
    method: str, body: str, running: Running
) -> None:
    async with running("auth") as server:
        request = f"{method} /healthz HTTP/1.1\r\nHost: a\r\n{body}".encode()
        status, socket, _ = await answer(server, request)
        assert status == 405
        assert socket.headers["allow"] == "GET, HEAD"


async def test_upgrade_by_post_hears_that_only_get_does(running: Running) -> None:
    async with running("auth") as server:
        request = upgrade("/", bearer(), method="POST")
        status, socket, _ = await answer(server, request)
        assert (status, socket.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        b"nonsense\r\n\r\n",
        b"GET /healthz HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n folded: line\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: ann@a\r\n\r\n",
        upgrade("/", bearer(), "Host: a", "Host: a"),
        upgrade("/", bearer(), "Host: ["),
        upgrade("/", bearer()).replace(b"Host: 127.0.0.1\r\n", b""),
    ],
    ids=[
        *("GET with a body", "no HTTP", "HTTP/2", "folded", "no host", "two hosts"),
        *("user at host", "upgrade to two", "upgrade to [", "upgrade to none"),
    ],
)
async def test_request_that_is_wrong_is_a_400(
    request_: bytes, running: Running
) -> None:
    async with running("auth") as server:
        status, *_ = await answer(server, request_)
        assert status == 400
        assert server.metrics.accepted == 0


async def test_two_origins_are_refused(running: Running) -> None:
    async with running("auth") as server:
        request = upgrade("/", bearer(), "Origin: http://127.0.0.1")
        request = request[:-2] + b"Origin: http://127.0.0.1\r\n\r\n"
        status, *_ = await answer(server, request)
        assert status == 403


async def test_too_many_from_one_address_is_a_429(running: Running) -> None:
    async with running("auth", address_limit=2) as server:
        async with raw_peer(server), raw_peer(server):
            status, socket, _ = await answer(server, upgrade("/", bearer()))
            assert status == 429
            assert int(socket.headers["retry-after"]) > 0
        await eventually(lambda: not server.connections)
        async with raw_peer(server), raw_peer(server):
            pass


async def test_full_server_is_a_503(running: Running) -> None:
    async with running("auth", connection_limit=1) as server:
        async with raw_peer(server):
            status, socket, _ = await answer(server, upgrade("/", bearer()))
            assert status == 503
            assert int(socket.headers["retry-after"]) > 0
        await eventually(lambda: not server.connections)
        async with raw_peer(server):
            pass


async def test_handshakes_beyond_the_rate_are_a_503(running: Running) -> None:
    async with running("auth", admission_rate=0.01) as server, raw_peer(server):
        for _ in range(3):
            status, socket, _ = await answer(server, upgrade("/", bearer()))
            assert status == 503
            # One handshake in a hundred seconds; refused ones do not make it longer.
            assert 90 <= int(socket.headers["retry-after"]) <= 100


async def test_draining_server_is_a_503(running: Running) -> None:
    async with running("auth") as server, raw_peer(server) as socket:
        draining = asyncio.create_task(server.drain(within=DEADLINE))
        head, _ = await socket.frame()
        assert head == 0x80 | CLOSE  # which this client does not answer yet
        status, other, _ = await answer(server, upgrade("/", bearer()))
        assert status == 503
        assert int(other.headers["retry-after"]) > 0
        socket.writer.close()
        await draining


MALFORMED = {
    "no key": upgrade("/", bearer(), "Sec-WebSocket-Key:"),
    "short key": upgrade("/", bearer(), "Sec-WebSocket-Key: AAAA"),
    "old version": upgrade("/", bearer(), "Sec-WebSocket-Version: 8"),
    "no connection": upgrade("/", bearer(), "Connection: close"),
    "another protocol": upgrade("/", bearer(), "Upgrade: websocket, h2c"),
    "bad subprotocol": upgrade("/", bearer(), "Sec-WebSocket-Protocol: a b"),
    "bad extension": upgrade("/", bearer(), "Sec-WebSocket-Extensions: =;="),
    "POST": upgrade("/", bearer(), method="POST"),
}


@pytest.mark.parametrize("request_", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_handshake_is_refused_and_frees_its_place(
    request_: bytes, running: Running
) -> None:
    async with running("auth", address_limit=1) as server:
        status, *_ = await answer(server, request_)
        assert status in (400, 405, 426)
        await eventually(lambda: not server.sockets)
        async with raw_peer(server):
            pass


async def test_client_that_resets_in_the_handshake_frees_its_place() -> None:
    # With uvloop, which the command line uses, both the request and the reset can
    # arrive before the server handles the request.
    async with served("--stage", "auth", "--address-limit", "2") as server:
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                linger = struct.pack("ii", 1, 0)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                client.sendall(upgrade("/", bearer()))

        async def admits() -> bool:
            async with raw(server.port, upgrade("/", bearer())) as client:
                return await client.head() == 101

        await eventually(admits)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n", 426),
        (b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"GET //[ HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"GET /?token=[ HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
        (b"GET http://a/healthz HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"POST /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    ],
    ids=str,
)
@pytest.mark.parametrize("stage", ENDS)
async def test_plain_http_gets_a_whole_answer(
    stage: str, request_: bytes, status: int, running: Running
) -> None:
    async with running(stage) as server:
        got, socket, _ = await answer(server, request_)
        assert got == status
        if status == 426:
            assert socket.headers["upgrade"] == "websocket"


async def test_head_has_the_head_of_get_and_no_body(running: Running) -> None:
    async with running("echo") as server:
        _, get, body = await answer(server, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        async with raw(server, b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n") as socket:
            assert await socket.head() == 200
            assert await socket.rest() == b""
        assert socket.headers == get.headers
        assert socket.headers["content-length"] == str(len(body))


async def test_handshake_to_a_path_that_is_no_url_is_a_401(running: Running) -> None:
    async with running("auth") as server:
        status, *_ = await answer(server, upgrade("//[?token=abc"))
        assert status == 401


GARBAGE = {
    "nothing like HTTP": b"hello there\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "zeros": bytes(100_000),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "long line": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    "long header": b"GET / HTTP/1.1\r\nA: " + b"a" * 100_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
    "header without a name": b"GET / HTTP/1.1\r\n: b\r\n\r\n",
    "a body": b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    "frames": masked(TEXT, b"hello") * 10,
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_instead_of_http_is_hung_up_on(
    data: bytes, running: Running
) -> None:
    async with running("auth", handshake_timeout=0.5) as server:
        async with raw(server, data) as socket:
            got = await socket.rest()
        assert not got or got.startswith(b"HTTP/1.1 4")
        async with raw_peer(server):
            pass


@pytest.mark.parametrize("data", [b"", b"GET /", upgrade()[:-2]], ids=repr)
async def test_slow_handshake_is_hung_up_on(data: bytes, running: Running) -> None:
    async with (
        running("resume", handshake_timeout=0.1) as server,
        raw(server, data) as socket,
    ):
        assert not await socket.rest()
        assert not server.connections


# Nothing secret in a log


def leaky_requests(token: str) -> list[bytes]:
    """Return good and bad handshakes, with a token in every possible place."""
    requests = [upgrade(path, header) for path, header in places(token).values()]
    requests += [
        upgrade(f"/?token={token}", bearer(token), method="POST"),
        upgrade(f"//[?token={token}"),
        upgrade("/", bearer(token), f"Sec-WebSocket-Protocol: bearer.{token} @"),
        upgrade("/", bearer(token), f"Sec-WebSocket-Key: {token}"),
        upgrade("/", bearer(token), f"Sec-WebSocket-Extensions: =; {token}"),
        upgrade("/", bearer(token), f"Origin: http://{token}"),
        f"GET /?token={token} HTTP/9.9\r\n\r\n".encode(),
        f"GET /?token={token} two words HTTP/1.1\r\n\r\n".encode(),
        f"GET /?token={token} HTTP/1.1\r\n{token}\r\n\r\n".encode(),
        f"GET /?token={token} HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        f"POST /healthz?token={token} HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        f"GET /?token={token}".encode(),  # and nothing after it
    ]
    return requests


async def provoke(port: int) -> list[str]:
    """Send tokens in ways that might be logged; return the texts that must not be."""
    good, bad = issue(SECRET, "ann"), issue("x" * 32, "ann")
    for token in (good, bad):
        for request in leaky_requests(token):
            async with raw(port, request) as client:
                client.writer.write_eof()
                await client.rest()
    for message in (
        said(type="refresh", token=good),
        said(type="refresh", token=[good]),
        masked(TEXT, f'{{"type":"refresh","token":"{good}'.encode()),
        masked(TEXT, f"{good}\xff".encode("latin-1")),
        said(type="refresh", token=bad),
    ):
        async with raw_peer(port) as client:
            client.send(message + said(type=good) + masked(CLOSE, b"\x03\xe8"))
            await client.rest()
    return [SECRET, *(token.rpartition(".")[2] for token in (good, bad))]


@pytest.mark.parametrize("stage", ["auth", "resume"])
async def test_no_token_and_no_secret_in_a_log_at_debug(
    stage: str, running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running(stage, handshake_timeout=0.5) as server:
        secrets = await provoke(server.port)
    assert not [secret for secret in secrets if secret in caplog.text]
    # A port scan must not fill the log either.
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


class Served:
    """A ``labserver serve`` process whose output is kept."""

    def __init__(self, process: asyncio.subprocess.Process, line: str) -> None:
        self.process = process
        self.port = int(line.rpartition(":")[2].split()[0])
        self.said = line


@asynccontextmanager
async def served(*arguments: str, **environment: str) -> AsyncIterator[Served]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "labserver", "serve", "--port", "0", *arguments),
        env={**os.environ, "LAB_SECRET": SECRET, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            line = (await process.stdout.readline()).decode()
        server = Served(process, line)
        yield server
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            server.said += (await process.stdout.read()).decode()
            assert await process.wait() == 0, server.said
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_no_token_and_no_secret_on_the_output_of_a_server() -> None:
    async with served("--stage", "auth", "--handshake-timeout", "0.5") as server:
        secrets = await provoke(server.port)
    assert not [secret for secret in secrets if secret in server.said]
    assert server.said.count("\n") == 1, server.said


# After the upgrade: frames


BROKEN_FRAMES = {
    "unmasked": (b"\x81\x01a", 1002),
    "reserved opcode": (masked(3), 1002),
    "reserved control opcode": (masked(11), 1002),
    "reserved bit 1 without an extension": (masked(TEXT, b"1", rsv=4), 1002),
    "reserved bit 2": (masked(TEXT, b"1", rsv=2), 1002),
    "reserved bit 3": (masked(TEXT, b"1", rsv=1), 1002),
    "long ping": (masked(PING, bytes(126)), 1002),
    "ping in pieces": (masked(PING, b"", fin=False), 1002),
    "continuation of nothing": (masked(CONTINUATION, b"1"), 1002),
    "text within text": (masked(TEXT, b"1", fin=False) + masked(TEXT, b"1"), 1002),
    "close of one byte": (masked(CLOSE, b"1"), 1002),
    "close with a code of nobody": (masked(CLOSE, b"\x00\x05"), 1002),
    "close with code 1006": (masked(CLOSE, b"\x03\xee"), 1002),
    "close with broken UTF-8": (masked(CLOSE, b"\x03\xe8\xff"), 1007),
    "broken UTF-8": (masked(TEXT, b'"\xff"'), 1007),
    "surrogate in UTF-8": (masked(TEXT, b'"\xed\xa0\x80"'), 1007),
    "half a character": (masked(TEXT, b'"\xe2\x82'), 1007),
    "broken UTF-8 in pieces": (
        masked(TEXT, b'"\xe2', fin=False) + masked(CONTINUATION, b'\x28"'),
        1007,
    ),
    "binary": (masked(BINARY, b"1"), 1003),
    "empty binary": (masked(BINARY), 1003),
    "too big": (masked(TEXT, b"1" * 65537), 1009),
    "too big by its header": (b"\x81\xff" + b"\x7f" + b"\xff" * 7 + bytes(4), 1009),
    "length with its highest bit set": (b"\x81\xff" + b"\xff" * 8 + bytes(4), None),
    "too big in pieces": (
        masked(TEXT, b"1" * 40000, fin=False) + masked(CONTINUATION, b"1" * 40000),
        1009,
    ),
}


@pytest.mark.parametrize(("frames", "code"), BROKEN_FRAMES.values(), ids=BROKEN_FRAMES)
@pytest.mark.parametrize("stage", ENDS)
async def test_broken_frame_is_closed_as_the_rfc_has_it(
    stage: str, frames: bytes, code: int | None, running: Running
) -> None:
    async with running(stage) as server:
        async with raw_peer(server) as socket:
            socket.send(frames)
            assert await socket.close_code() in ((code,) if code else (1002, 1009))
        await eventually(lambda: not server.connections)


async def test_message_of_just_the_size_limit_is_served(running: Running) -> None:
    async with running("echo") as server, raw_peer(server) as socket:
        text = b'"' + b"x" * 65534 + b'"'
        socket.send(masked(TEXT, text))
        assert (await socket.message())["payload"] == "x" * 65534


async def test_size_limit_of_zero_is_none(running: Running) -> None:
    async with (
        running("echo", message_size_limit=0) as server,
        raw_peer(server) as socket,
    ):
        socket.send(masked(TEXT, b'"' + b"x" * 300_000 + b'"'))
        assert len((await socket.message())["payload"]) == 300_000


async def test_message_in_pieces_with_a_ping_between_is_served(
    running: Running,
) -> None:
    async with running("echo") as server, raw_peer(server) as socket:
        euro = '"\u20ac"'.encode()
        socket.send(
            masked(TEXT, euro[:2], fin=False)
            + masked(PING, b"life")
            + masked(CONTINUATION, euro[2:3], fin=False)
            + masked(CONTINUATION, euro[3:])
        )
        assert await socket.frame() == (0x80 | PONG, b"life")
        assert (await socket.message())["payload"] == "\u20ac"


async def test_goodbye_between_fragments_is_answered(running: Running) -> None:
    async with running("resume") as server, raw_peer(server) as socket:
        socket.send(masked(TEXT, b"half", fin=False) + masked(CLOSE, b"\x03\xe8"))
        assert await socket.close_code() == 1000


async def test_client_that_says_goodbye_is_answered(running: Running) -> None:
    async with running("resume") as server, raw_peer(server) as socket:
        socket.send(masked(CLOSE, b"\x03\xe8bye"))
        assert await socket.close_code() == 1000


@pytest.mark.parametrize("stage", ENDS)
async def test_every_broken_message_is_answered_and_the_connection_lives(
    stage: str, running: Running
) -> None:
    broken = ["", "{", "[" * 200 + "]" * 200, "[" * 60000, '"\\ud800"', "1 2", "\x00"]
    async with running(stage) as server, peer(server) as client:
        for text in broken:
            await client.socket.send(text)
            message = await client.recv()
            assert message["type"] == "error"
            assert message["code"] == "bad_json"
            assert message["detail"]
            assert set(message) == {"type", "code", "detail"}
        await client.send(type="ping")
        assert (await client.recv())["type"] in ("echo", "pong")


@pytest.mark.timeout(10)
async def test_brackets_in_a_string_without_an_end_cost_nothing(
    running: Running,
) -> None:
    async with running("resume") as server, peer(server) as client:
        for _ in range(5):
            await client.socket.send("[" * 129 + '"' + '\\"' * 32_600)
            assert (await client.recv())["code"] == "bad_json"


def babble(dice: random.Random, native: int) -> bytes:
    """Return a random frame that resembles a client's."""
    types = ["echo", "join", "leave", "publish", "ping", "refresh", "nope", 1, None]
    values = ["a", "", 0, -1, 2**70, 1e300, None, True, [], {}, "\u20ac" * 70, [[[]]]]
    message = {"type": dice.choice(types)}
    for name in ("room", "payload", "ref", "key", "token", "after"):
        if dice.random() < 0.5:
            message[name] = "a" if dice.random() < 0.5 else dice.choice(values)
    if dice.random() < 0.2:
        message["after"] = {"epoch": dice.choice(values), "seq": dice.choice(values)}
    data = json.dumps(message).encode() if native == TEXT else cbor2.dumps(message)
    if dice.random() < 0.1:
        place = dice.randrange(len(data))
        data = data[:place] + bytes([dice.randrange(128)]) + data[place + 1 :]
    if dice.random() < 0.9:
        return masked(native, data)
    others = [TEXT, BINARY, CONTINUATION, PING, PONG]
    rsv = dice.choice([0, 0, 4])
    return masked(dice.choice(others), data[:120], dice.random() < 0.5, rsv)


@pytest.mark.parametrize("stage", ["auth", "resume"])
@pytest.mark.parametrize("subprotocol", ["lab.json", "lab.cbor"])
async def test_babble_never_makes_the_server_fail(
    stage: str, subprotocol: str, running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    headers = (offer(""), f"Sec-WebSocket-Protocol: {subprotocol}")
    native = TEXT if subprotocol == "lab.json" else BINARY
    async with running(stage) as server:
        for seed in range(120):
            dice = random.Random(seed)
            async with raw_peer(server, *headers) as socket:
                socket.send(b"".join(babble(dice, native) for _ in range(12)))
                socket.send(masked(CLOSE, b"\x03\xe8"))
                assert await socket.close_code() not in (1006, 1011)
        await eventually(lambda: not server.connections and not server.hub.rooms)
        assert server.metrics.closes[1011, "server"] == 0
        assert server.metrics.received > 500
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


# Floods


@pytest.mark.parametrize("stage", ENDS)
async def test_flood_of_messages_is_answered_then_closed_with_4429(
    stage: str, running: Running
) -> None:
    async with (
        running(stage, message_rate_limit=1) as server,
        peer(server) as client,
    ):
        for number in range(2):
            await client.send(type="ping", ref=number)
            assert (await client.recv())["type"] in ("echo", "pong")
        await client.send(type="ping", ref="over")
        message = await client.recv()
        assert message["code"] == "rate_limited"
        assert message["ref"] == "over"
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                await client.send(type="ping")
                await client.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 4429


FLOODS = {
    "pings": masked(PING, b"x"),
    "pongs": masked(PONG),
    "tiny pieces": masked(CONTINUATION, b"1", fin=False),
    "empty pieces": masked(CONTINUATION, b"", fin=False),
    "broken messages": masked(TEXT, b"{"),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
@pytest.mark.parametrize("stage", ENDS)
async def test_flood_of_frames_is_closed_with_4429(
    stage: str, flood: bytes, running: Running
) -> None:
    async with running(stage, message_rate_limit=5) as server:
        async with raw_peer(server) as socket:
            if flood[0] & 0x0F == CONTINUATION:
                socket.send(masked(TEXT, b"1", fin=False))
            socket.send(flood * 100)
            assert await socket.close_code() == 4429
        await eventually(lambda: not server.connections)


async def test_rate_limit_of_zero_is_none(running: Running) -> None:
    async with (
        running("echo", message_rate_limit=0) as server,
        raw_peer(server) as socket,
    ):
        socket.send(masked(TEXT, b"1") * 5000)
        for _ in range(5000):
            assert (await socket.message())["type"] == "echo"


# Compression


def offer(parameters: str) -> str:
    return f"Sec-WebSocket-Extensions: permessage-deflate{parameters}"


def parameters_of(socket: Raw) -> dict[str, str]:
    header = socket.headers.get("sec-websocket-extensions", "")
    pairs = [part.strip().partition("=") for part in header.split(";")]
    return {name: value for name, _, value in pairs if name}


@pytest.mark.parametrize("stage", ENDS)
@pytest.mark.parametrize("bits", [None, *range(8, 16)])
async def test_server_window_is_what_the_client_wants_or_not_used(
    bits: int | None, stage: str, running: Running
) -> None:
    asked = f"; server_max_window_bits={bits}" if bits else ""
    async with running(stage) as server:
        async with raw_peer(server, offer(asked)) as socket:
            agreed = parameters_of(socket)
            own = int(agreed.get("server_max_window_bits") or 15)
            assert not agreed or own <= (bits or 15)
            assert agreed or bits == 8  # zlib has no window of 8 bits
            payload = "words " * 2000
            socket.send(said(type="echo", payload=payload))
            head, data = await socket.frame()
            if agreed:
                assert "server_no_context_takeover" in agreed
                assert head == 0xC0 | TEXT
                data = zlib.decompressobj(-own).decompress(data + b"\0\0\xff\xff")
            message = json.loads(data)
            if stage == "echo":
                message = message["payload"]
            assert message["payload"] == payload
        await eventually(lambda: not server.connections)


@pytest.mark.parametrize(
    "parameters",
    [
        "; server_max_window_bits=7",
        "; server_max_window_bits=16",
        "; server_max_window_bits=08",
        "; server_max_window_bits",
        "; client_max_window_bits=99",
        "; client_max_window_bits=8",
        "; server_no_context_takeover=1",
        "; server_no_context_takeover; server_no_context_takeover",
        "; unknown",
        ", permessage-deflate",
        "; unknown, permessage-deflate",
    ],
)
async def test_odd_offer_is_declined_or_agreed_and_the_connection_works(
    parameters: str, running: Running
) -> None:
    async with (
        running("resume") as server,
        raw_peer(server, offer(parameters)) as socket,
    ):
        socket.send(said(type="ping", ref="x" * 128))
        head, data = await socket.frame()
        if head & 0x40:
            data = zlib.decompressobj(-15).decompress(data + b"\0\0\xff\xff")
        assert json.loads(data) == {"type": "pong", "ref": "x" * 128}


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    return (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.parametrize("stage", ENDS)
async def test_message_that_inflates_beyond_the_limit_is_closed_with_1009(
    stage: str, running: Running
) -> None:
    async with running(stage) as server, raw_peer(server, offer("")) as socket:
        bomb = deflated(b'"' + b"x" * 50_000_000 + b'"')
        assert len(bomb) < 65536
        socket.send(masked(TEXT, bomb, rsv=4))
        assert await socket.close_code() == 1009


async def test_frame_that_does_not_inflate_is_a_protocol_error(
    running: Running,
) -> None:
    async with running("resume") as server, raw_peer(server, offer("")) as socket:
        socket.send(masked(TEXT, b"\xff\xff\xff\xff", rsv=4))
        assert await socket.close_code() in (1002, 1007)


async def test_compressed_and_plain_members_hear_the_same(running: Running) -> None:
    payload = {"text": "words " * 100}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running("resume"))
        factories = [
            ClientPerMessageDeflateFactory(server_max_window_bits=bits)
            for bits in (9, 10, 12, 15)
        ]
        options: list[dict[str, Any]] = [{}, {"compression": "deflate"}]
        options += [{"extensions": [factory]} for factory in factories]
        clients = [
            await stack.enter_async_context(peer(server, **each)) for each in options
        ]
        for client in clients:
            await client.join("lobby")
        for number in range(5):
            await clients[1].send(type="publish", room="lobby", payload=payload)
            for client in clients:
                message = await client.recv()
                assert (message["seq"], message["payload"]) == (number + 1, payload)


# CBOR


class CborPeer(Peer):
    """A client that speaks CBOR in binary frames."""

    async def send(self, **message: Any) -> None:
        await self.socket.send(cbor2.dumps(message))

    async def recv(self) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE):
            data = await self.socket.recv()
            assert isinstance(data, bytes)
            return cbor2.loads(data)


@asynccontextmanager
async def cbor_peer(server: LabServer, **options: Any) -> AsyncIterator[CborPeer]:
    async with connect(
        f"{server.url}/",
        additional_headers={"Authorization": f"Bearer {issue(SECRET, 'bob')}"},
        subprotocols=["lab.cbor"],
        **{"ping_interval": None, "compression": None, **options},
    ) as socket:
        client = CborPeer(socket)
        client.hello = await client.recv()
        yield client


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["lab.json"], "lab.json"),
        (["lab.cbor"], "lab.cbor"),
        (["lab.cbor", "lab.json"], "lab.cbor"),
        (["chat", "lab.json", "lab.cbor"], "lab.json"),
        (["chat"], None),
    ],
)
async def test_first_known_subprotocol_is_chosen(
    offered: list[str], chosen: str | None, running: Running
) -> None:
    async with running("echo") as server:
        header = f"Sec-WebSocket-Protocol: {', '.join(offered)}"
        async with raw(server, upgrade("/", header)) as socket:
            assert await socket.head() == 101
            assert socket.headers.get("sec-websocket-protocol") == chosen


@pytest.mark.parametrize("stage", ROOMS)
async def test_cbor_and_json_members_hear_the_same(
    stage: str, running: Running
) -> None:
    payload = {"n": [1, -1.5, None, True, "\u20ac\U0001f600", {}], "long": "x" * 300}
    async with (
        running(stage) as server,
        peer(server) as ann,
        cbor_peer(server, compression="deflate") as bob,
    ):
        assert bob.hello["type"] == "hello"
        for client in (ann, bob):
            joined = await client.join("lobby")
            assert (joined["type"], joined["seq"]) == ("joined", 0)
        for sender in (ann, bob):
            await sender.send(type="publish", room="lobby", payload=payload)
            heard = [await client.recv() for client in (ann, bob)]
            assert heard[0] == heard[1]
            assert heard[0]["payload"] == payload


@pytest.mark.parametrize("number", ["9" * 5000, "-1e999", "1e-999", "1" * 300])
async def test_number_that_others_cannot_read_harms_no_one(
    number: str, running: Running
) -> None:
    async with (
        running("resume") as server,
        peer(server) as ann,
        cbor_peer(server) as bob,
    ):
        await ann.join("lobby")
        await bob.join("lobby")
        for payload, ref in ((f"[{number}]", 1), ("[]", 2)):
            kind = '"type":"publish","room":"lobby"'
            await ann.socket.send(f'{{{kind},"payload":{payload},"ref":{ref}}}')
        answers = []
        while len(answers) < 2:
            if (message := await ann.recv()).get("ref"):
                answers.append(message["type"])
        assert answers == ["ack" if math.isfinite(float(number)) else "error", "ack"]
        heard = [await bob.recv() for _ in range(answers.count("ack"))]
        assert heard[-1]["payload"] == []


@pytest.mark.parametrize(
    "payload",
    ["9" * 5000, "1e400", '{"a":1,"a":2}', '"\\ud800"', json.dumps([0] * 9000)],
    ids=["digits", "float", "name twice", "surrogate", "elements"],
)
async def test_payload_that_some_decoders_refuse_is_answered_with_an_error(
    payload: str, running: Running
) -> None:
    async with running("rooms") as server, peer(server) as client:
        fields = '"room":"lobby","ref":1'
        await client.socket.send(f'{{"type":"publish","payload":{payload},{fields}}}')
        answer = await client.recv()
        assert (answer["type"], answer["code"]) == ("error", "bad_json")
        assert answer["detail"]
        await client.send(type="ping")
        assert (await client.recv())["type"] == "pong"


@pytest.mark.parametrize("stage", ENDS)
async def test_text_on_a_cbor_connection_is_closed_with_1003(
    stage: str, running: Running
) -> None:
    async with running(stage) as server, cbor_peer(server) as client:
        await client.socket.send("{}")
        assert await client.closed() == 1003


SHARED = b"\xd8\x1c\x82\x61a\xd8\x1d\x00"  # a list that contains itself
BAD_CBOR = {
    "empty": b"",
    "half": b"\x82\x01",
    "bytes": b"\x41a",
    "undefined": b"\xf7",
    "nan": cbor2.dumps(float("nan")),
    "a set": cbor2.dumps({1, 2}),
    "a date": cbor2.dumps(cbor2.CBORTag(0, "2024-01-01T00:00:00Z")),
    "a list that holds itself": SHARED,
    "deep": b"\x81" * 60_000,
    "endless": b"\x9f" * 60_000,
    "long by its header": b"\x9b" + b"\x7f" * 8,
    "numbers as keys": cbor2.dumps({1: 2}),
    "two values": b"\x01\x01",
    "a huge number": b"\xc2" + cbor2.dumps(b"\xff" * 60_000),
    "a name twice": b"\xa2\x61a\x01\x61a\x02",
    "half a surrogate pair": b"\x63\xed\xa0\x80",
    "many empty maps": cbor2.dumps([{}] * 60_000),
    "a pattern": cbor2.dumps(cbor2.CBORTag(35, "(?i)" + "[\x01-\U0010ffff]" * 5000)),
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("stage", ENDS)
async def test_bad_cbor_is_answered_and_the_connection_lives(
    stage: str, running: Running
) -> None:
    async with running(stage) as server, cbor_peer(server) as client:
        for data in BAD_CBOR.values():
            await client.socket.send(data)
            message = await client.recv()
            assert (message["type"], message["code"]) == ("error", "bad_json")
        await client.send(type="ping")
        assert (await client.recv())["type"] in ("echo", "pong")


# Messages


@pytest.mark.parametrize("stage", ALL)
async def test_hello_tells_who_and_where(stage: str, running: Running) -> None:
    guarded = stage in GUARDED
    async with (
        running(stage, replica="here", heartbeat_interval=7) as server,
        peer(server) as one,
        peer(server, "bob") as two,
    ):
        assert one.hello == {
            "type": "hello",
            "id": one.hello["id"],
            "user": "ann" if guarded else "anonymous",
            "stage": stage,
            "replica": "here",
            "heartbeat": 7 if stage in ALL[3:] else None,
        }
        assert two.hello["user"] == ("bob" if guarded else "anonymous")
        assert one.hello["id"] != two.hello["id"]


@pytest.mark.parametrize("stage", ECHO)
async def test_every_value_comes_back_as_it_was(stage: str, running: Running) -> None:
    texts = ["null", "-0", "1e999", "9" * 400, '"\\u0041\\/"', "[]", '{"a":1,"a":2}']
    texts += ['{ "type" : "publish" }', '{"type":"echo","payload":1}', '"\u2028"']
    texts += ['{"type":"join","room":"a","ref":1}', '{"type":"refresh"}']
    async with running(stage) as server, peer(server) as client:
        for text in texts:
            await client.socket.send(text)
            async with asyncio.timeout(DEADLINE):
                got = await client.socket.recv()
            assert got == f'{{"type":"echo","payload":{text}}}'


@pytest.mark.parametrize("stage", ROOMS)
async def test_each_type_is_answered_with_its_ref_and_without(
    stage: str, running: Running
) -> None:
    refresh = {"type": "refresh", "token": issue(SECRET, "ann", ttl=7200)}
    asked: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"type": "echo", "payload": [1]}, {"type": "echo", "payload": [1]}),
        ({"type": "ping"}, {"type": "pong"}),
        ({"type": "leave", "room": "elsewhere"}, {"type": "left", "room": "elsewhere"}),
        (refresh, {"type": "refreshed"}),
        ({"type": "join", "room": "a"}, {"type": "joined", "room": "a"}),
        ({"type": "leave", "room": "a"}, {"type": "left", "room": "a"}),
    ]
    async with running(stage) as server, peer(server) as client:
        for message, expected in asked:
            for ref in ("a", "", 7, -(2**60), 1.5, None):
                extra = {} if ref is None else {"ref": ref}
                await client.send(**message, **extra)
                got = await client.recv()
                assert expected.items() <= got.items()
                assert got.get("ref") == ref
                assert ("ref" in got) == (ref is not None)


@asynccontextmanager
async def inside(server: LabServer, room: str = "a") -> AsyncIterator[Peer]:
    """Keep a member in a room: without a history, an empty room is forgotten."""
    async with peer(server, "eve") as member:
        await member.join(room)
        yield member


@pytest.mark.parametrize("stage", ROOMS)
async def test_joined_says_where_the_room_stands(stage: str, running: Running) -> None:
    async with running(stage) as server, inside(server), peer(server) as client:
        for number in range(3):
            ack = await client.ask(type="publish", room="a", payload=number)
            assert ack == {"type": "ack", "room": "a", "seq": number + 1, "ref": "q"}
        joined = await client.join("a")
        assert set(joined) == {"type", "room", "epoch", "seq", "recovered", "ref"}
        assert (joined["seq"], joined["recovered"]) == (3, False)
        assert joined["epoch"]


@pytest.mark.parametrize("stage", ROOMS)
async def test_publish_without_a_ref_is_not_answered(
    stage: str, running: Running
) -> None:
    async with running(stage) as server, inside(server), peer(server) as client:
        await client.send(type="publish", room="a", payload=1)
        assert (await client.ask(type="publish", room="a", payload=2))["seq"] == 2
        assert (await client.ask(type="ping"))["type"] == "pong"


@pytest.mark.parametrize("stage", ROOMS)
async def test_publisher_in_the_room_hears_itself_like_everybody_else(
    stage: str, running: Running
) -> None:
    async with (
        running(stage) as server,
        peer(server) as ann,
        peer(server, "bob") as bob,
    ):
        await ann.join("a")
        await bob.join("a")
        await ann.send(type="publish", room="a", payload={"x": 1})
        expected = {
            "type": "message",
            "room": "a",
            "seq": 1,
            "from": "ann",
            "payload": {"x": 1},
        }
        assert await ann.recv() == await bob.recv() == expected


@pytest.mark.parametrize("stage", ROOMS)
async def test_payload_bytes_are_carried_as_they_are(
    stage: str, running: Running
) -> None:
    written = '{ "a" : [1.50, 1e2, "\\u0041", "\u20ac\u2028"], "A": null }'
    async with running(stage) as server, peer(server) as client:
        await client.join("a")
        await client.socket.send(
            f'{{"payload": {written}, "room": "a", "type": "publish"}}'
        )
        async with asyncio.timeout(DEADLINE):
            got = await client.socket.recv()
        assert isinstance(got, str)
        assert got.endswith(f'"payload":{written}}}')


@pytest.mark.parametrize("stage", ROOMS)
@pytest.mark.parametrize("key", ["k", "history", "x:y {z}", "\u20ac"])
async def test_a_second_publish_with_the_same_key_is_the_first(
    stage: str, key: str, running: Running
) -> None:
    async with running(stage) as server, peer(server) as client:
        await client.join("a")
        for ref in range(3):  # at once: they may share a batch
            await client.send(type="publish", room="a", payload=ref, key=key, ref=ref)
        await client.send(type="publish", room="a", payload="other", ref="other")
        got = [await client.recv() for _ in range(6)]
        acks = {each["ref"]: each["seq"] for each in got if each["type"] == "ack"}
        assert acks == {0: 1, 1: 1, 2: 1, "other": 2}
        messages = [each for each in got if each["type"] == "message"]
        assert [(each["seq"], each["payload"]) for each in messages] == [
            (1, 0),
            (2, "other"),
        ]
        again = await client.ask(type="publish", room="a", payload=9, key=key)
        assert again["seq"] == 1
        elsewhere = await client.ask(type="publish", room="b", payload=9, key=key)
        assert elsewhere["seq"] == 1
        assert (await client.ask(type="ping"))["type"] == "pong"


@pytest.mark.parametrize("stage", ROOMS)
async def test_error_codes_and_their_refs(stage: str, running: Running) -> None:
    token = issue(SECRET, "ann", ["open", "team:*"])
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"type": "nope"}, "unknown_type"),
        ({"type": 5}, "bad_message"),
        ({"type": "join"}, "bad_message"),
        ({"type": "join", "room": "no spaces"}, "bad_message"),
        ({"type": "join", "room": "open", "after": [1]}, "bad_message"),
        ({"type": "publish", "room": "open"}, "bad_message"),
        ({"type": "publish", "room": "open", "payload": 1, "key": ""}, "bad_message"),
        ({"type": "join", "room": "closed"}, "forbidden"),
        ({"type": "join", "room": "team"}, "forbidden"),
        ({"type": "publish", "room": "closed", "payload": 1}, "forbidden"),
    ]
    async with running(stage) as server, peer(server, token=token) as client:
        for message, code in wrong:
            for extra in ({}, {"ref": 7}):
                await client.send(**message, **extra)
                got = await client.recv()
                assert (got["type"], got["code"]) == ("error", code)
                assert got["detail"]
                assert got.keys() == {"type", "code", "detail", *extra}
        for room in ("open", "team:red"):
            assert (await client.join(room))["type"] == "joined"


@pytest.mark.parametrize("stage", ROOMS)
async def test_connection_may_be_in_so_many_rooms(stage: str, running: Running) -> None:
    async with running(stage, rooms_limit=2) as server, peer(server) as client:
        assert (await client.join("a"))["type"] == "joined"
        assert (await client.join("b"))["type"] == "joined"
        assert (await client.join("c"))["code"] == "room_limit"
        assert (await client.join("a"))["type"] == "joined"
        await client.ask(type="leave", room="b")
        assert (await client.join("c"))["type"] == "joined"


@pytest.mark.parametrize("stage", ROOMS)
async def test_member_that_left_hears_nothing(stage: str, running: Running) -> None:
    async with running(stage) as server, peer(server) as client:
        await client.join("a")
        await client.ask(type="leave", room="a")
        await client.ask(type="publish", room="a", payload=1)
        assert (await client.ask(type="ping")) == {"type": "pong", "ref": "q"}
        await eventually(lambda: not server.hub.rooms)


@asynccontextmanager
async def crowd(server: LabServer, room: str) -> AsyncIterator[list[Peer]]:
    """Eight members of a room, so that some are written to before others."""
    async with AsyncExitStack() as stack:
        members = [
            await stack.enter_async_context(peer(server, f"user{number}"))
            for number in range(8)
        ]
        for member in members:
            await member.join(room)
        yield members


@pytest.mark.parametrize("stage", ROOMS)
async def test_member_that_hangs_up_takes_nothing_from_the_others(
    stage: str,
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also a message that is delivered when the end is noticed reaches the others."""
    async with running(stage) as server, crowd(server, "lobby") as members:
        noticed = LabConnection.eof_received

        def deliver_then(connection: LabConnection) -> None:
            noticed(connection)
            tail = b'"from":"ann","payload":"all of you"}'
            server.hub.deliver("lobby", event("lobby", 1, tail))

        monkeypatch.setattr(LabConnection, "eof_received", deliver_then)
        members.pop().socket.transport.abort()
        for member in members:
            assert (await member.until("message"))["payload"] == "all of you"
    assert not [each for each in caplog.records if each.exc_info]


@pytest.mark.parametrize("stage", ROOMS)
async def test_member_that_breaks_the_protocol_takes_nothing_from_the_others(
    stage: str, running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """Also while the member has been told so, and does not hang up."""
    async with (
        running(stage) as server,
        raw_peer(server) as bad,
        crowd(server, "lobby") as members,
    ):
        bad.send(said(type="join", room="lobby"))
        await bad.frame()
        bad.send(masked(TEXT, b"\xff"))
        assert (await bad.frame())[0] & 15 == CLOSE
        await members[0].send(type="publish", room="lobby", payload="all of you")
        for member in members:
            assert (await member.until("message"))["payload"] == "all of you"
    assert not [each for each in caplog.records if each.exc_info]


@pytest.mark.parametrize("stage", ROOMS)
async def test_joining_again_repeats_nothing(stage: str, running: Running) -> None:
    total = 400
    async with (
        running(stage, message_rate_limit=0) as server,
        peer(server) as ann,
        peer(server, "bob") as bob,
    ):
        await ann.join("a")

        async def publish() -> None:
            for number in range(total):
                await bob.send(type="publish", room="a", payload=number)
                if number % 10 == 0:
                    await ann.send(type="join", room="a")
                    await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            group.create_task(publish())
            seqs: list[int] = []
            while len(seqs) < total and (not seqs or seqs[-1] < total):
                message = await ann.recv()
                if message["type"] == "message":
                    seqs.append(message["seq"])
        assert seqs == list(range(1, total + 1))


@pytest.mark.parametrize(
    "cursor",
    [
        {"epoch": "another", "seq": 1},
        {"epoch": "", "seq": 2},
        {"epoch": None, "seq": 2**63 - 1},
        {"epoch": None, "seq": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("stage", ROOMS)
async def test_cursor_that_means_nothing_here_is_not_recovered(
    stage: str, cursor: dict[str, Any], running: Running
) -> None:
    async with running(stage) as server, inside(server), peer(server) as client:
        await client.ask(type="publish", room="a", payload=1)
        await client.ask(type="publish", room="a", payload=2)
        epoch = (await client.join("a"))["epoch"]
        after = {**cursor, **({} if cursor["epoch"] is not None else {"epoch": epoch})}
        async with peer(server) as other:
            joined = await other.join("a", after=after)
            assert (joined["recovered"], joined["seq"]) == (False, 2)
            assert joined["epoch"] == epoch
            assert (await other.ask(type="ping"))["type"] == "pong"


# Tokens on live sockets


async def test_token_ends_its_connection_with_4401_unless_refreshed(
    running: Running,
) -> None:
    async def live(stage: str) -> None:
        async with running(stage) as server:
            token = issue(SECRET, "ann", ttl=4)
            async with (
                peer(server, token=token) as one,
                peer(server, token=token) as two,
            ):
                before = jwt.decode(token, SECRET, algorithms=["HS256"])["exp"]
                await two.send(type="refresh", token=issue(SECRET, "ann"))
                refreshed = await two.recv()
                assert refreshed["type"] == "refreshed"
                assert refreshed["expires"] > before + 3000
                assert await one.closed() == 4401
                await two.send(type="ping")
                assert (await two.recv())["type"] in ("echo", "pong")

    await asyncio.gather(*(live(stage) for stage in GUARDED))


@pytest.mark.parametrize("stage", GUARDED)
async def test_refreshed_tells_the_new_expiry(stage: str, running: Running) -> None:
    async with running(stage) as server, peer(server) as client:
        token = issue(SECRET, "ann", ttl=9999)
        claims = jwt.decode(token, SECRET, algorithms=["HS256"])
        assert await client.ask(type="refresh", token=token) == {
            "type": "refreshed",
            "expires": claims["exp"],
            "ref": "q",
        }


async def test_refresh_that_is_read_too_late_keeps_nothing_alive(
    running: Running,
) -> None:
    async with running("auth") as server:
        async with peer(server):
            (connection,) = server.connections
        await eventually(lambda: not server.connections)
        server.parts.admission.refresh(connection, issue(SECRET, "ann"))
        assert connection.expiry is None or connection.expiry.cancelled()


@pytest.mark.parametrize("stage", GUARDED)
@pytest.mark.parametrize(
    "token",
    [issue("x" * 32, "ann"), issue(SECRET, "bob"), issue(SECRET, "ann", ttl=-5), "abc"],
    ids=["of another secret", "of another user", "expired", "garbage"],
)
async def test_bad_refresh_is_closed_with_4401(
    stage: str, token: str, running: Running
) -> None:
    async with running(stage) as server, peer(server) as client:
        await client.send(type="refresh", token=token)
        assert await client.closed() == 4401


@pytest.mark.parametrize("stage", ROOMS)
async def test_refresh_with_fewer_rooms_leaves_the_others(
    stage: str, running: Running
) -> None:
    async with running(stage) as server, peer(server) as client:
        await client.join("a")
        await client.join("b")
        token = issue(SECRET, "ann", ["b"])
        assert (await client.ask(type="refresh", token=token))["type"] == "refreshed"
        assert await client.recv() == {"type": "left", "room": "a"}
        await client.ask(type="publish", room="b", payload=1)
        assert (await client.join("a"))["code"] == "forbidden"


async def test_refresh_where_there_are_no_tokens_is_forbidden(
    running: Running,
) -> None:
    async with (
        running("resume", without=("auth",)) as server,
        peer(server) as client,
    ):
        answer = await client.ask(type="refresh", token="abc")
        assert (answer["type"], answer["code"]) == ("error", "forbidden")


# Ends


@pytest.mark.parametrize("stage", ALL)
async def test_drain_is_a_1001_that_says_when_to_return(
    stage: str, running: Running
) -> None:
    async with AsyncExitStack() as stack:
        async with running(stage) as server:
            client = await stack.enter_async_context(peer(server))
            listening = asyncio.create_task(client.closed())
            await asyncio.sleep(0)
        assert await listening == 1001
        assert client.socket.close_reason is not None
        assert "retry_after_ms=" in client.socket.close_reason


def test_every_stage_is_tested() -> None:
    lists: Sequence[Sequence[str]] = (ALL, GUARDED, ROOMS)
    assert [len(each) for each in lists] == [7, 6, 5]
    assert base64.b64decode("AAAAAAAAAAAAAAAAAAAAAA==") == bytes(16)
