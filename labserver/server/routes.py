"""The HTTP side of the port: health, metrics and the console page."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from typing import Protocol
from urllib.parse import urlsplit

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

TEXT = "text/plain; charset=utf-8"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'"
)


class Status(Protocol):
    """What the routes ask a server."""

    def unready(self) -> str | None:
        """Return why new clients should go elsewhere, or None."""

    def metrics_page(self) -> bytes: ...


def respond(
    status: int, body: bytes | str, kind: str = TEXT, **headers: str
) -> Response:
    """Return a complete HTTP response; underscores in header names become dashes."""
    data = body.encode() if isinstance(body, str) else body
    fields = Headers(
        [
            ("Content-Type", kind),
            ("Content-Length", str(len(data))),
            ("Connection", "close"),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *((name.replace("_", "-"), value) for name, value in headers.items()),
        ]
    )
    return Response(status, HTTPStatus(status).phrase, fields, data)


def wants_upgrade(request: Request) -> bool:
    """Return whether a request asks for a WebSocket."""
    values = request.headers.get_all("Upgrade")
    return any("websocket" in value.lower() for value in values)


def answer(status: Status, request: Request) -> Response:
    """Return the answer to a request that is not an upgrade."""
    try:
        path = urlsplit(request.path).path
    except ValueError:
        path = ""  # such as //[
    if path == "/ws":
        return respond(426, "this is a WebSocket address\n", Upgrade="websocket")
    route = ROUTES.get(path)
    if route is None:
        return respond(404, "there is no such page\n")
    if request.method not in ("GET", "HEAD"):
        return respond(405, "only GET\n", Allow="GET, HEAD")
    response = route(status)
    if request.method == "HEAD":
        response.body = b""  # RFC 9110 section 9.3.2
    return response


def _healthz(status: Status) -> Response:
    return respond(200, "ok\n")


def _readyz(status: Status) -> Response:
    why = status.unready()
    return respond(503, f"{why}\n", Retry_After="1") if why else respond(200, "ok\n")


def _metrics(status: Status) -> Response:
    kind = "text/plain; version=0.0.4; charset=utf-8"
    return respond(200, status.metrics_page(), kind)


def _console(name: str, kind: str) -> Callable[[Status], Response]:
    def page(status: Status) -> Response:
        data = files("labserver.server").joinpath("console", name).read_bytes()
        return respond(
            *(200, data, kind),
            Content_Security_Policy=PAGE_POLICY,
            Referrer_Policy="no-referrer",
        )

    return page


ROUTES: dict[str, Callable[[Status], Response]] = {
    "/": _console("index.html", "text/html; charset=utf-8"),
    "/console.css": _console("console.css", "text/css; charset=utf-8"),
    "/console.js": _console("console.js", "text/javascript; charset=utf-8"),
    "/lab-client.js": _console("lab-client.js", "text/javascript; charset=utf-8"),
    "/healthz": _healthz,
    "/readyz": _readyz,
    "/metrics": _metrics,
}
