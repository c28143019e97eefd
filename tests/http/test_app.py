"""The SSE port: admission, publishing, refusals and attacks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from labserver.contract import closing
from labserver.contract.messages import DEPTH_LIMIT
from labserver.contract.tokens import issue
from labserver.http.listener import WebServer
from labserver.processes.cluster import running_replica
from labserver.redis.embedded import embedded_redis
from labserver.server.limits import TokenBucket
from labserver.server.server import LabServer
from labserver.server.turns import LEAST_WORK
from tests.conftest import DEADLINE, SECRET, Running, eventually, peer
from tests.http.test_sse import stalled
from tests.support.plain_http import ask, listening, poll, port_of, post, request

SITE = "https://app.example.com"


# Publishing


async def test_post_is_acknowledged_with_its_seq(running: Running) -> None:
    async with running("resume", sse_port=0) as server:
        for number in (1, 2):
            answer = await post(server, "red", {"n": number})
            assert answer.status == 200
            assert answer.body == {"type": "ack", "room": "red", "seq": number}


async def test_post_takes_turns_and_is_charged_as_a_message_is(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, costs = [], []
    charge = TokenBucket.charge

    def note(bucket: TokenBucket, cost: float) -> None:
        costs.append(cost)
        charge(bucket, cost)

    monkeypatch.setattr(TokenBucket, "charge", note)
    async with running("resume", sse_port=0, message_rate_limit=1e6) as server:
        ask = server.turns.ask

        def stand_in_line(then: Callable[[], object]) -> None:
            asked.append(then)
            ask(then)

        monkeypatch.setattr(server.turns, "ask", stand_in_line)
        assert (await post(server, "red", 1)).status == 200
        assert not asked
        assert (await post(server, "red", "x" * 60_000)).status == 200
        assert len(asked) == 1
        small, large = costs
        assert large > 60_000 * LEAST_WORK * 1e6 - 1.5


async def test_second_post_with_a_key_is_the_first(running: Running) -> None:
    key = {"Idempotency-Key": "abc"}
    async with running("resume", sse_port=0) as server, peer(server) as ann:
        await ann.join("red")
        assert (await post(server, "red", 1, headers=key)).body["seq"] == 1
        assert (await post(server, "red", 1, headers=key)).body["seq"] == 1
        again = await ann.ask(type="publish", room="red", payload=1, key="abc")
        assert again["seq"] == 1
        assert server.metrics.published == 1
        async with peer(server, "eve") as eve:  # another user's key is another key
            other = await eve.ask(type="publish", room="red", payload=1, key="abc")
            assert other["seq"] == 2
        again = await post(server, "red", 1, headers=key)
        assert again.body["seq"] == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/rooms/red", b"{", 400, "bad_json"),
        ("/rooms/red", b"", 400, "bad_json"),
        ("/rooms/red", b"\xff", 400, "bad_json"),
        ("/rooms/red", b'1,"room":"blue"', 400, "bad_json"),
        ("/rooms/red", b"[" * 200 + b"]" * 200, 400, "bad_json"),
        ("/rooms/no%20room", b"1", 400, "bad_message"),
        ("/rooms/" + "x" * 65, b"1", 400, "bad_message"),
        ("/rooms/red", b'"' + b"x" * 70_000 + b'"', 413, "too_big"),
    ],
)
async def test_bad_post_is_refused_with_a_code(
    path: str, body: bytes, status: int, code: str, running: Running
) -> None:
    async with running("resume", sse_port=0) as server:
        answer = await ask(server, "POST", path, body)
        assert (answer.status, answer.body["type"]) == (status, "error")
        assert answer.body["code"] == code
        assert server.metrics.published == 0


async def raw(server: LabServer, *parts: bytes) -> bytes:
    """Send bytes that are not a proper request; return the whole response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    try:
        async with asyncio.timeout(5):
            for part in parts:
                writer.write(part)
                await writer.drain()
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def test_body_in_chunks_has_the_same_limit(running: Running) -> None:
    head = request("POST", "/rooms/red", headers={"Transfer-Encoding": "chunked"})
    chunk = b"1000\r\n" + b"1" * 4096 + b"\r\n"
    async with running("resume", sse_port=0, handshake_timeout=0.5) as server:
        data = await raw(server, head.replace(b"HTTP/1.0", b"HTTP/1.1"), chunk * 17)
        assert data.startswith(b"HTTP/1.1 413 ")


async def test_request_with_two_lengths_is_the_last_of_its_connection(
    running: Running,
) -> None:
    head = request("POST", "/rooms/red").replace(b"HTTP/1.0", b"HTTP/1.1")[:-2]
    two = b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n"
    next_one = request("GET", "/healthz").replace(b"HTTP/1.0", b"HTTP/1.1")
    async with running("resume", sse_port=0) as server:
        data = await raw(server, head + two + next_one)
        assert data.startswith(b"HTTP/1.1 200 ")
        assert data.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("host", ["", "Host: a\r\nHost: a\r\n", "Host: ann@a\r\n"])
async def test_missing_double_or_broken_host_is_a_400(
    host: str, running: Running
) -> None:
    head = request("GET", "/rooms/red/poll?wait=0").replace(b"HTTP/1.0", b"HTTP/1.1")
    head = head.replace(
        b"Host: 127.0.0.1\r\n", host.encode() + b"Connection: close\r\n"
    )
    async with running("resume", sse_port=0) as server:
        assert (await raw(server, head)).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/rooms/red", {"GET", "HEAD", "POST"}),
        ("/rooms/red/poll", {"GET", "HEAD"}),
        ("/healthz", {"GET", "HEAD"}),
    ],
)
async def test_method_that_is_not_there_hears_which_are(
    path: str, methods: set[str], running: Running
) -> None:
    async with running("resume", sse_port=0) as server:
        answer = await ask(server, "DELETE", path)
        assert (answer.status, answer.body["code"]) == (405, "bad_method")
        assert set(answer.headers["allow"].split(", ")) == methods


async def test_path_with_a_slash_too_many_is_not_sent_elsewhere(
    running: Running,
) -> None:
    async with running("resume", sse_port=0) as server:
        answer = await ask(server, "GET", "/rooms/red/")
        assert (answer.status, answer.body["code"]) == (404, "not_found")


async def test_length_that_is_a_lie_is_refused(running: Running) -> None:
    head = request("POST", "/rooms/red", headers={"Content-Length": "9" * 4000})
    async with running("resume", sse_port=0, handshake_timeout=0.5) as server:
        assert (await raw(server, head)).startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))


async def test_publishing_too_fast_is_refused(running: Running) -> None:
    async with running("resume", sse_port=0, message_rate_limit=1) as server:
        answers = [await post(server, "red", n) for n in range(4)]
        assert [each.status for each in answers[:2]] == [200, 200]
        assert answers[-1].status == 429
        assert answers[-1].headers["retry-after"] == "1"
        bob = await post(server, "red", 1, token=issue(SECRET, "bob"))
        assert bob.status == 200


async def test_broker_that_is_down_is_503(running: Running) -> None:
    async with (
        embedded_redis() as own,
        running("resume", sse_port=0, redis=own.url) as server,
    ):
        assert (await post(server, "red", 1)).status == 200
        own.stop()
        answer = await post(server, "red", 2)
        assert (answer.status, answer.body["code"]) == (503, "broker_down")
        assert answer.headers["retry-after"] == "1"


# Admission


ROUTES = [
    ("GET", "/rooms/red"),
    ("GET", "/rooms/red/poll?wait=0"),
    ("POST", "/rooms/red"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_no_stranger_gets_in(method: str, path: str, running: Running) -> None:
    expired = issue(SECRET, "ann", ttl=-1)
    elsewhere = issue(SECRET, "ann", ["blue"])
    body = b"1" if method == "POST" else b""
    async with running("auth", sse_port=0) as server:
        for token in ("", "nonsense", issue("x" * 40, "ann"), expired):
            answer = await ask(server, method, path, body, token=token)
            assert (answer.status, answer.body["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
    async with running("resume", sse_port=0) as server:
        answer = await ask(server, method, path, body, token=elsewhere)
        assert (answer.status, answer.body["code"]) == (403, "forbidden")
        answer = await ask(server, method, path, body, headers={"Origin": SITE})
        assert (answer.status, answer.body["code"]) == (403, "forbidden")
        assert not server.visitors


@pytest.mark.parametrize("where", ["header", "cookie", "query"])
async def test_token_is_taken_from_where_a_handshake_has_it(
    where: str, running: Running
) -> None:
    token = issue(SECRET, "bob")
    places: dict[str, dict[str, Any]] = {
        "header": {"token": token},
        "cookie": {"token": "", "headers": {"Cookie": f"lab_token={token}"}},
        "query": {"token": "", "path": f"/rooms/red?token={token}"},
    }
    async with (
        running("resume", sse_port=0) as server,
        listening(server, "red", **places[where]),
    ):
        (visitor,) = server.visitors
        assert visitor.identity.user == "bob"


async def test_listed_origin_may_read_the_answers(running: Running) -> None:
    asks = {
        "Origin": SITE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,idempotency-key",
    }
    async with running("resume", sse_port=0, origins=(SITE,)) as server:
        preflight = await ask(server, "OPTIONS", "/rooms/red", headers=asks, token="")
        assert preflight.status == 200
        assert preflight.headers["access-control-allow-origin"] == SITE
        answer = await post(server, "red", 1, headers={"Origin": SITE})
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == SITE
        refused = await post(server, "red", 1, token="", headers={"Origin": SITE})
        assert refused.headers["access-control-allow-origin"] == SITE
        other = {**asks, "Origin": "https://evil.example.com"}
        preflight = await ask(server, "OPTIONS", "/rooms/red", headers=other, token="")
        assert "access-control-allow-origin" not in preflight.headers


async def test_caps_count_sockets_and_streams_together(running: Running) -> None:
    async with (
        running("resume", sse_port=0, connection_limit=2) as server,
        listening(server, "red"),
    ):
        async with peer(server):
            answer = await poll(server, "red")
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        await eventually(lambda: not server.connections)
        assert (await poll(server, "red")).status == 200
    async with (
        running("resume", sse_port=0, address_limit=1) as server,
        listening(server, "red"),
    ):
        assert (await post(server, "red", 1)).status == 429
        assert server.metrics.refused[429] == 1


async def test_request_is_not_encoded_only_to_be_decoded(running: Running) -> None:
    async with running("resume", sse_port=0) as server:

        async def receive(*_: object) -> None:
            raise RuntimeError("a request was made into text")

        server.application.receive = receive  # type: ignore[method-assign]
        assert (await post(server, "red", {"a": 1})).status == 200
        assert (await poll(server, "red")).status == 200


@pytest.mark.parametrize(
    ("room", "body", "key", "code"),
    [
        ("no room", "1", "k", "bad_message"),
        ("red", "1", "", "bad_message"),
        ("red", "1", "k" * 129, "bad_message"),
        ("red", '{"a":1,"a":2}', "k", "bad_json"),
        ("red", "[" * DEPTH_LIMIT + "]" * DEPTH_LIMIT, "k", "bad_json"),
        ("red", '"\\ud800"', "k", "bad_json"),
    ],
)
async def test_post_is_checked_like_a_message(
    room: str, body: str, key: str, code: str, running: Running
) -> None:
    async with running("resume", sse_port=0) as server:
        headers = {"Idempotency-Key": key}
        path = f"/rooms/{quote(room)}"
        answer = await ask(server, "POST", path, body.encode(), headers=headers)
        assert (answer.status, answer.body["code"]) == (400, code)


async def test_stage_without_rooms_says_so(running: Running) -> None:
    async with running("auth", sse_port=0) as server:
        assert (await ask(server, "GET", "/rooms/red")).status == 404
        assert (await poll(server, "red")).status == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/rooms/", 404),
        ("PUT", "/rooms/red", 405),
        ("HEAD", "/rooms/red", 200),
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
    ],
)
async def test_other_requests(
    method: str, path: str, status: int, running: Running
) -> None:
    async with running("resume", sse_port=0) as server:
        await eventually(lambda: not server.unready())
        assert (await ask(server, method, path)).status == status
        assert not server.visitors


async def test_streams_and_polls_are_counted(running: Running) -> None:
    async with running("resume", sse_port=0) as server, listening(server, "red"):
        await poll(server, "red")
        page = server.metrics_page().decode()
        assert "labserver_streams_total 1.0" in page
        assert "labserver_polls_total 1.0" in page
        assert "labserver_visitors 1.0" in page


# Attacks


async def test_head_that_drips_in_is_cut_off(running: Running) -> None:
    async with running("resume", sse_port=0, handshake_timeout=0.4) as server:
        for start in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            writer.write(start + b"GET /rooms/red HTTP/1.1\r\n")

            async def drip(writer: asyncio.StreamWriter = writer) -> None:
                while not writer.is_closing():
                    writer.write(b"X-A: b\r\n")
                    await asyncio.sleep(0.05)

            dripping = asyncio.create_task(drip())
            async with asyncio.timeout(5):
                with contextlib.suppress(ConnectionError):
                    assert b"404" in await reader.read() or not start
            dripping.cancel()
            writer.transport.abort()


async def test_body_that_drips_in_is_refused(running: Running) -> None:
    async with running("resume", sse_port=0, handshake_timeout=0.3) as server:
        head = request("POST", "/rooms/red", headers={"Content-Length": "50"})
        assert (await raw(server, head, b"1")).startswith(b"HTTP/1.1 408 ")
        await eventually(lambda: not server.visitors)


async def test_huge_head_is_refused(running: Running) -> None:
    async with running("resume", sse_port=0) as server:
        head = request("GET", "/rooms/red", headers={"X-Big": "x" * 100_000})
        data = await raw(server, head)
        assert not data or data.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
        assert not server.visitors


async def test_huge_target_is_refused(running: Running) -> None:
    # Smaller than one read, so the limit of a head does not refuse it.
    async with running("resume", sse_port=0) as server:
        said = await ask(server, "GET", f"/rooms/red?{'x' * 40_000}")
        assert said.status == 431
        assert not server.visitors


async def test_page_of_another_site_cannot_embed_a_room(running: Running) -> None:
    # A browser sends cookies and no Origin for an <img src>.
    headers = {
        "Cookie": f"lab_token={issue(SECRET, 'ann')}",
        "Sec-Fetch-Mode": "no-cors",
    }
    async with running("resume", sse_port=0) as server:
        for path in ("/rooms/red", "/rooms/red/poll?wait=0"):
            said = await ask(server, "GET", path, headers=headers, token="")
            assert (said.status, said.body["code"]) == (403, "forbidden")
        headers["Sec-Fetch-Mode"] = "cors"  # as an EventSource of the same origin
        said = await ask(
            *(server, "GET", "/rooms/red/poll?wait=0"), headers=headers, token=""
        )
        assert said.status == 200
        assert said.headers["x-content-type-options"] == "nosniff"


async def test_noise_is_answered_or_dropped(running: Running) -> None:
    async with running("resume", sse_port=0, handshake_timeout=0.3) as server:
        for noise in (
            b"\x16\x03\x01\x02\x00",
            b"\r\n" * 50,
            b"GET\r\n\r\n",
            b"{}" * 99,
        ):
            await raw(server, noise)
        assert (await post(server, "red", 1)).status == 200


async def test_answer_that_nobody_reads_is_dropped(running: Running) -> None:
    limits = {"handshake_timeout": 0.4, "send_buffer": 16384, "outbox_limit": 2**22}
    async with running("resume", sse_port=0, **limits) as server:
        start = (await poll(server, "red")).body["epoch"]
        for _ in range(60):
            await post(server, "red", "x" * 60_000)
        sloth = socket.socket()
        sloth.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sloth.connect(("127.0.0.1", port_of(server)))
        sloth.sendall(request("GET", f"/rooms/red/poll?after={start}:0"))
        web = server.web
        assert isinstance(web, WebServer)
        sockets = web.server.server_state.connections
        await eventually(lambda: server.metrics.polls == 2)
        await eventually(lambda: not sockets)
        sloth.close()


async def test_answer_that_is_read_slowly_is_read_to_its_end(running: Running) -> None:
    patience, size = 0.8, 20 * 60_000
    limits = {"send_buffer": 16384, "outbox_limit": 2 * size}
    async with running(
        "resume",
        without=("broker",),
        sse_port=0,
        handshake_timeout=patience,
        **limits,
    ) as server:
        start = (await poll(server, "red")).body["epoch"]
        for _ in range(20):
            await post(server, "red", "x" * 60_000)
        loop = asyncio.get_running_loop()
        with socket.socket() as slow:
            slow.setblocking(False)
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(slow, ("127.0.0.1", port_of(server)))
            asked = request("GET", f"/rooms/red/poll?after={start}:0")
            await loop.sock_sendall(slow, asked)
            began, read = loop.time(), 0
            while data := await loop.sock_recv(slow, 2**16):
                read += len(data)
                # No faster than that it takes three times the patience.
                due = began + 3 * patience * read / size
                await asyncio.sleep(due - loop.time())
        assert read > size


async def test_websocket_is_not_spoken_here(running: Running) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    async with running("resume", sse_port=0) as server:
        answer = await ask(server, "GET", "/", headers=upgrade)
        assert answer.status == 404


async def test_get_with_a_body_is_refused(running: Running) -> None:
    async with running("resume", sse_port=0) as server:
        for path in ("/rooms/red", "/rooms/red/poll"):
            answer = await ask(server, "GET", path, b"1")
            assert (answer.status, answer.body["code"]) == (400, "bad_message")


async def test_goodbye_to_a_client_that_just_left_does_not_end_the_next_request(
    running: Running,
) -> None:
    async with running("resume", sse_port=0) as server:
        async with listening(server, "red"):
            (visitor,) = server.visitors
        await eventually(lambda: not server.visitors)
        visitor.end(closing.draining(1.0))
        assert visitor.deadline is None


async def test_goodbye_that_was_taken_does_not_end_the_next_request(
    running: Running,
) -> None:
    async with (
        running("resume", sse_port=0) as server,
        listening(server, "red") as stream,
    ):
        (visitor,) = server.visitors
        visitor.end(closing.draining(1.0))
        assert visitor.deadline is not None
        await stream.rest()
        await eventually(lambda: not server.visitors)
        assert visitor.deadline.cancelled()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux")
async def test_dead_peer_is_noticed_by_the_kernel(running: Running) -> None:
    async with running("resume", sse_port=0) as server, listening(server, "red"):
        (visitor,) = server.visitors
        sock = visitor.socket.get_extra_info("socket")
        option = socket.TCP_USER_TIMEOUT
        assert sock.getsockopt(socket.IPPROTO_TCP, option) == 25_000
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# The process


async def test_stuck_stream_does_not_hold_up_sigterm() -> None:
    flags = ("--without", "broker", "--sse-port", "0", "--send-buffer", "16384")
    async with running_replica(
        "resume", *flags, "--drain-timeout", "1", secret=SECRET
    ) as replica:
        assert replica.process.stdout is not None
        line = (await replica.process.stdout.readline()).decode()
        port = int(line.partition("/rooms")[0].rpartition(":")[2])
        sloth = await stalled(port)
        for _ in range(100):
            await post(port, "red", "x" * 20_000)
        async with asyncio.timeout(DEADLINE):  # the client does not read until then
            assert await replica.stop() == 0
        sloth.transport.abort()
