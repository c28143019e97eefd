"""The HTTP pages of the WebSocket port."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from labserver.contract.tokens import issue
from labserver.server.routes import ROUTES, answer, respond, wants_upgrade
from tests.conftest import DEADLINE, SECRET, Running, eventually, peer


class Fake:
    """Stands in for a server, which is ready or not."""

    def __init__(self, why: str | None = None) -> None:
        self.why = why

    def unready(self) -> str | None:
        return self.why

    def metrics_page(self) -> bytes:
        return b"# a page\n"


def ask(path: str, method: str = "GET", why: str | None = None) -> Response:
    return answer(Fake(why), Request(path, Headers(), method))


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_every_route_is_a_whole_response(path: str, method: str) -> None:
    response = ask(path, method)
    assert response.status_code == 200
    assert response.headers["Connection"] == "close"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-store"
    whole = ask(path)
    assert response.headers["Content-Length"] == str(len(whole.body or b""))
    assert response.body == (whole.body if method == "GET" else b"")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/console.css", "text/css"),
        ("/console.js", "text/javascript"),
        ("/healthz", "text/plain"),
        ("/readyz", "text/plain"),
        ("/metrics", "text/plain; version=0.0.4"),
        ("/asyncapi.json", "application/json"),
    ],
)
def test_each_route_says_what_it_is(path: str, kind: str) -> None:
    assert ask(path).headers["Content-Type"].startswith(kind)


@pytest.mark.parametrize("path", ["/healthz?a=b", "/healthz#x", "http://a/healthz"])
def test_query_and_absolute_form_are_understood(path: str) -> None:
    assert ask(path).body == b"ok\n"


@pytest.mark.parametrize("why", ["draining", "the broker is deaf"])
def test_unready_is_a_503_that_says_why_and_alive_is_still_alive(why: str) -> None:
    response = ask("/readyz", why=why)
    assert response.status_code == 503
    assert response.body == f"{why}\n".encode()
    assert int(response.headers["Retry-After"]) > 0
    assert ask("/healthz", why=why).status_code == 200


@pytest.mark.parametrize(
    "path", ["/x", "/healthz/", "/HEALTHZ", "//", "//[", "*", "", "/../etc/passwd"]
)
def test_unknown_path_is_a_404(path: str) -> None:
    assert ask(path).status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get"])
def test_other_methods_are_a_405_that_says_which(method: str) -> None:
    response = ask("/metrics", method)
    assert response.status_code == 405
    assert response.headers["Allow"] == "GET, HEAD"


def test_socket_without_an_upgrade_is_a_426() -> None:
    response = ask("/ws")
    assert response.status_code == 426
    assert response.headers["Upgrade"] == "websocket"


def test_console_may_load_nothing_from_elsewhere() -> None:
    policy = ask("/").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page = (ask("/").body or b"").decode()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    for name in re.findall(r"""(?:src|href)=["']?(/[^"'> ]+)""", page):
        assert ask(name).status_code == 200


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([], False),
        (["websocket"], True),
        (["WebSocket"], True),
        (["h2c, websocket"], True),
        (["h2c", "websocket"], True),
        (["h2c"], False),
    ],
)
def test_upgrade_is_wanted_by_its_header(values: list[str], wanted: bool) -> None:
    headers = Headers([("Upgrade", value) for value in values])
    assert wants_upgrade(Request("/", headers)) is wanted


def test_header_names_are_written_with_dashes() -> None:
    response = respond(503, "busy\n", Retry_After="3")
    assert response.headers["Retry-After"] == "3"
    assert response.reason_phrase == "Service Unavailable"


@pytest.mark.parametrize(
    ("limits", "token", "status"),
    [
        ({}, issue(SECRET, "ann"), 200),
        ({}, issue(SECRET, "ann", ttl=-1), 401),
        ({}, "", 401),
        ({"connection_limit": 1}, issue(SECRET, "ann"), 503),
        ({"address_limit": 1}, issue(SECRET, "ann"), 429),
    ],
)
async def test_admission_says_what_a_handshake_would_get_and_takes_no_place(
    limits: dict[str, Any], token: str, status: int, running: Running
) -> None:
    async with running("auth", **limits) as server, peer(server):
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            bearer = f"Authorization: Bearer {token}\r\n" if token else ""
            head = f"GET /admission HTTP/1.1\r\nHost: 127.0.0.1\r\n{bearer}\r\n"
            writer.write(head.encode())
            async with asyncio.timeout(DEADLINE):
                answered = await reader.read()
            assert int(answered.split()[1]) == status
            writer.close()
        assert len(server.connections) == 1
        places = server.parts.admission.places
        await eventually(lambda: places.taken == 1 and not places.standing)
