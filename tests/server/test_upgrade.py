"""The short way of a handshake gives what the library's long way gives."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from websockets.http11 import Request
from websockets.server import ServerProtocol

from labserver.contract import wire
from labserver.server.upgrade import LabProtocol, is_plain, plain_request

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
fuzz = settings(
    max_examples=200,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
names = st.sampled_from(
    [
        *("Host", "Upgrade", "upgrade", "Connection", "Origin", "Cookie", "X-Y"),
        *("Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Extensions"),
        *("Sec-WebSocket-Protocol", "Content-Length", "Transfer-Encoding", "", "a b"),
    ]
)
texts = st.sampled_from(
    [
        *("websocket", "WebSocket", "Upgrade", "keep-alive, Upgrade", "close", "13"),
        *(KEY, "lab.cbor", "lab.json, chat", "permessage-deflate", "x; y=1, ,", "0"),
        *("permessage-deflate; client_max_window_bits", "é", "a:b", "a\x00b", "\t"),
    ]
) | st.text('ab:;,= \t"\r\n\x7f\x01é', max_size=8)
spaces = st.sampled_from(["", " ", "\t ", "  "])
lines = st.lists(st.tuples(names, spaces, texts, spaces), max_size=6).map(
    lambda found: "".join(f"{n}:{a}{t}{b}\r\n" for n, a, t, b in found)
)
starts = st.sampled_from(
    [
        *("GET / HTTP/1.1", "GET /?token=a%20b HTTP/1.1", "GET /a b HTTP/1.1"),
        *("POST / HTTP/1.1", "GET / HTTP/1.0", "GET  / HTTP/1.1", "get / HTTP/1.1"),
        *("GET /é HTTP/1.1", "GET * HTTP/1.1", "GET http://a/ HTTP/1.1", ""),
    ]
)
heads = st.tuples(starts, lines, st.sampled_from(["", "\r\n", "\r\n\r\n", "\r\nGET"]))
UPGRADE = (
    f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n"
    "Sec-WebSocket-Version: 13\r\n"
)


def by_library(head: bytes) -> Request | None:
    """Return the request as the library reads it, alone; None if it reads none."""
    protocol = ServerProtocol()
    protocol.receive_data(head)
    found = protocol.events_received()
    request = found[0] if len(found) == 1 else None
    return request if isinstance(request, Request) else None


@fuzz
@given(heads)
@example(("GET / HTTP/1.1", "A: b\r\n folded\r\n", "\r\n"))
@example(("GET / HTTP/1.1", "A : b\r\n", "\r\n"))
@example(("GET / HTTP/1.1", "A: b\n", "\r\n"))
@example(("GET / HTTP/1.1", "Content-Length: 0\r\n", "\r\n"))
def test_plain_request_is_what_the_library_reads(head: tuple[str, str, str]) -> None:
    start, fields, end = head
    data = f"{start}\r\n{fields}{end}".encode("latin-1")
    short = plain_request(data)
    if short is not None:
        long = by_library(data)
        assert long is not None
        assert short.path == long.path
        assert list(short.headers.raw_items()) == list(long.headers.raw_items())


def answer(request: Request, by: type[ServerProtocol]) -> tuple[int, dict[str, str]]:
    """Return status and headers of the answer to an upgrade."""
    offer = [wire.deflate_offer()]
    if issubclass(by, LabProtocol):
        protocol: ServerProtocol = LabProtocol(extensions=offer)
        assert isinstance(protocol, LabProtocol)
        protocol.upgrade(request, {})
    else:
        chosen = LabProtocol.select_subprotocol
        protocol = ServerProtocol(extensions=offer, select_subprotocol=chosen)
        protocol.send_response(protocol.accept(request))
    first, *rest = b"".join(protocol.data_to_send()).decode("latin-1").split("\r\n")
    named = [line.partition(": ")[::2] for line in rest if ": " in line]
    assert len({name for name, _ in named}) == len(named)
    found = {name: text for name, text in named if name not in ("Date", "Server")}
    return int(first.split()[1]), found


@fuzz
@given(lines)
@example("Sec-WebSocket-Extensions: permessage-deflate\r\nOrigin: http://a\r\n")
@example("Sec-WebSocket-Protocol: chat, lab.cbor, lab.json\r\n")
@example("Sec-WebSocket-Extensions: permessage-deflate; bogus=1\r\n")
@example("Connection: close\r\n")
def test_upgrade_is_answered_as_the_library_answers_it(fields: str) -> None:
    head = f"GET / HTTP/1.1\r\nHost: a\r\n{UPGRADE}{fields}\r\n".encode("latin-1")
    request = by_library(head)
    if request is not None:
        assert answer(request, LabProtocol) == answer(request, ServerProtocol)


@pytest.mark.parametrize(
    "more",
    ["", "Origin: http://a\r\n", "Sec-WebSocket-Extensions: permessage-deflate\r\n"],
    ids=["python", "browser", "deflate"],
)
def test_usual_upgrade_goes_the_short_way(more: str) -> None:
    """Otherwise the tests above compare the library with itself."""
    head = f"GET / HTTP/1.1\r\nHost: a\r\n{UPGRADE}{more}\r\n".encode()
    request = plain_request(head)
    assert request is not None
    assert is_plain(request.headers)
