"""The HTTP pages of the WebSocket port: health, metrics and the console."""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from typing import Protocol
from urllib.parse import urlsplit

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from labserver.contract.messages import encode_json
from labserver.contract.schema import asyncapi
from labserver.errors import Refused

TEXT = "text/plain; charset=utf-8"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'"
)


class Status(Protocol):
    """What the routes need from a server."""

    def unready(self) -> str | None:
        """Return why new clients should go to another replica; None if ready."""

    def metrics_page(self) -> bytes:
        """Return the metrics in Prometheus' text format."""


def respond(
    status: int, body: bytes | str, kind: str = TEXT, **headers: str
) -> Response:
    """Return a complete HTTP response; underscores in header names become dashes."""
    data = body.encode() if isinstance(body, str) else body
    fields = Headers()
    # One by one: update() takes 9 us longer, a tenth of a refused handshake.
    fields["Content-Type"] = kind
    fields["Content-Length"] = str(len(data))
    fields["Connection"] = "close"
    fields["Cache-Control"] = "no-store"
    fields["X-Content-Type-Options"] = "nosniff"
    for name, value in headers.items():
        fields[name.replace("_", "-")] = value
    return Response(status, HTTPStatus(status).phrase, fields, data)


def wants_upgrade(request: Request) -> bool:
    """Return whether a request asks for a WebSocket."""
    values = request.headers.get_all("Upgrade")
    return any("websocket" in value.lower() for value in values)


# RFC 3986 section 3.2: a name or an address, perhaps a port, no user.
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(:[0-9]*)?")


def check_host(request: Request) -> None:
    """Refuse a request without exactly one valid ``Host`` header.

    With two of them, this server and a proxy might each read a different one (RFC 9112
    section 3.2). Before HTTP/1.1 the header may be missing.

    Raises:
        Refused: 400.

    """
    hosts = request.headers.get_all("Host")
    if len(hosts) > 1 or not (hosts or request.protocol == "HTTP/1.0"):
        raise Refused(400, "a request needs exactly one Host header")
    if hosts and not _AUTHORITY.fullmatch(hosts[0]):
        raise Refused(400, "the Host header is not the name of a host")


def check_upgrade(request: Request) -> None:
    """Refuse an upgrade that cannot succeed, before its token is checked.

    Raises:
        Refused: 405 for another method than GET, 426 for another version than 13.

    """
    if request.method != "GET":
        raise Refused(405, "an upgrade is a GET", {"Allow": "GET"})
    if request.headers.get_all("Sec-WebSocket-Version") != ["13"]:
        # RFC 6455 section 4.4: name the version that the server speaks.
        headers = {"Sec-WebSocket-Version": "13", "Upgrade": "websocket"}
        raise Refused(426, "the version of WebSocket here is 13", headers)


def refusal(refused: Refused) -> Response:
    """Return the HTTP response of a refusal."""
    response = respond(refused.status, f"{refused.detail}\n")
    for name, value in refused.headers.items():
        response.headers[name] = value
    return response


def unreadable(exc: BaseException | None, start: bytes) -> Response:
    """Return the response to a request that cannot be parsed.

    Args:
        exc: The parser's exception.
        start: The first bytes of the request.

    """
    body = isinstance(exc, NotImplementedError) or "body" in str(exc)
    if body and not start.startswith((b"GET ", b"HEAD ")):
        return respond(405, "only GET\n", Allow="GET, HEAD")
    return respond(400, "a request has no body here\n" if body else "not HTTP/1.1\n")


def asks_admission(request: Request) -> bool:
    """Return whether a request is for ``/admission``: would a handshake be accepted?

    A browser hides the status of a failed handshake (whatwg/websockets#39). Without
    this, a page cannot tell a token that is refused for good from a server that is
    full.
    """
    return request.method == "GET" and request.path.partition("?")[0] == "/admission"


def answer(status: Status, request: Request) -> Response:
    """Return the response to a request that is not an upgrade."""
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


def _schema(status: Status) -> Response:
    return respond(200, encode_json(asyncapi()), "application/json")


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
    "/asyncapi.json": _schema,
    "/": _console("index.html", "text/html; charset=utf-8"),
    "/console.css": _console("console.css", "text/css; charset=utf-8"),
    "/console.js": _console("console.js", "text/javascript; charset=utf-8"),
    "/lab-client.js": _console("lab-client.js", "text/javascript; charset=utf-8"),
    "/healthz": _healthz,
    "/readyz": _readyz,
    "/metrics": _metrics,
}
