"""What an HTTP request says: what it accepts, its cursor, how long it may wait."""

from __future__ import annotations

import asyncio
import re

from starlette.requests import Request
from websockets.datastructures import Headers
from websockets.http11 import Request as Handshake

from labserver.contract.messages import Cursor
from labserver.errors import BadMessage

WAIT = 25.0  # seconds that a poll waits, unless it names another time
WAIT_LIMIT = 60.0  # seconds
CURSOR = re.compile(r"\A(.{1,128}):([0-9]{1,18})\Z")


def wants_events(request: Request) -> bool:
    """Return whether a client accepts an event stream, as every EventSource does."""
    accept = request.headers.get("accept", "").lower()
    return request.method == "GET" and "text/event-stream" in accept


def has_body(request: Request) -> bool:
    length = request.headers.get("content-length", "0")
    return length != "0" or "transfer-encoding" in request.headers


def socket_of(request: Request) -> asyncio.Transport:
    """Return the request's transport, which the listener put into its state."""
    found: asyncio.Transport = request.state.transport
    return found


def handshake(request: Request) -> Handshake:
    """Return a request in the type that admission and the other port's routes use."""
    # Not from request.url, which contains the header Host.
    scope = request.scope
    target = scope["raw_path"] + b"?" + scope["query_string"]
    headers = Headers(request.headers.items())
    version = f"HTTP/{scope['http_version']}"
    return Handshake(target.decode("latin-1"), headers, request.method, version)


def cursor_of(request: Request) -> Cursor | None:
    """Return a client's cursor: ``Last-Event-ID``, or else ``?after=``, or None.

    The header is newer: an EventSource comes back with its first URL.

    Raises:
        BadMessage: It is no cursor.

    """
    text = request.headers.get("last-event-id") or request.query_params.get("after")
    if not text:
        return None
    found = CURSOR.match(text)
    if found is None:
        raise BadMessage("bad_message", "a cursor is epoch:seq, as event ids are")
    return Cursor(found[1], int(found[2]))


def wait_of(request: Request) -> float:
    """Return the seconds that a poll may wait.

    Raises:
        BadMessage: The parameter ``wait`` is no number, or is too large.

    """
    text = request.query_params.get("wait", f"{WAIT}")
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", text) or float(text) > WAIT_LIMIT:
        detail = f"wait is a number of seconds, {WAIT_LIMIT:g} at most"
        raise BadMessage("bad_message", detail)
    return float(text)


async def departure(request: Request) -> None:
    """Return when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
