"""Rooms over plain HTTP: a stream of events, a long poll, publishing by POST.

This is for clients that cannot or need not speak WebSocket. Rooms, rights, cursors and
limits are the same. A request is admitted like a handshake. A refusal is JSON, with a
code of the wire contract.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from labserver.contract import closing, decoding, messages
from labserver.contract.messages import Ack, Cursor, Error, Join, Publish
from labserver.errors import BadMessage, Refused
from labserver.http.polling import Poll
from labserver.http.requests import (
    cursor_of,
    departure,
    handshake,
    has_body,
    socket_of,
    wait_of,
    wants_events,
)
from labserver.http.sse import Stream, StreamResponse, turned_away
from labserver.http.visitor import Publisher, Visitor
from labserver.redis.deadlines import Patience
from labserver.server import routes
from labserver.server.limits import BucketPerName
from labserver.server.member import Member
from labserver.server.metrics import SERVER, Metrics
from labserver.server.parts import Application, Parts
from labserver.server.proxies import UNKNOWN, Proxies, neighbourhood, normal
from labserver.server.turns import Share, Turns, charged
from labserver.settings import Settings

log = logging.getLogger("labserver")

HEADERS = 16384  # bytes of headers and address; a stream holds them while it lasts

# The status of each error code, and the code of a refusal that only has a status.
STATUS = {
    "bad_json": 400,
    "bad_message": 400,
    "unknown_type": 400,
    "forbidden": 403,
    "room_limit": 403,
    "rate_limited": 429,
    "broker_down": 503,
}
CODES = {
    400: "bad_message",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "bad_method",
    408: "too_slow",
    413: "too_big",
    431: "too_big",
    429: "rate_limited",
    500: "internal",
    503: "overloaded",
}


class Host(Protocol):
    """What the routes need from a server."""

    parts: Parts
    settings: Settings
    metrics: Metrics
    proxies: Proxies
    turns: Turns
    application: Application
    draining: bool
    visitors: set[Member]

    def unready(self) -> str | None: ...

    def metrics_page(self) -> bytes: ...


class Web:
    """The routes of one server; :attr:`app` is the ASGI application."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.rates = BucketPerName(host.settings.message_rate_limit)
        self.app = Starlette(
            routes=[
                Route("/rooms/{room}", self.room, methods=["GET", "POST"]),
                Route("/rooms/{room}/poll", self.poll, methods=["GET"]),
                Route("/healthz", self.status, methods=["GET"]),
                Route("/readyz", self.status, methods=["GET"]),
            ],
            middleware=[
                Middleware(
                    CORSMiddleware,
                    allow_origins=[each.lower() for each in host.settings.origins],
                    allow_methods=["GET", "POST"],
                    allow_headers=["Authorization", "Idempotency-Key", "Last-Event-ID"],
                    expose_headers=["Retry-After"],
                    allow_credentials=True,
                )
            ],
            exception_handlers={
                Refused: self.refuse,
                BadMessage: self.refuse,
                ClientDisconnect: self.refuse,
                HTTPException: self.refuse,  # no such page or method
            },
        )
        # A redirect would send the token, over http, to the host that Host names.
        self.app.router.redirect_slashes = False

    def address(self, request: Request) -> str:
        """Return the client's address, also behind a trusted proxy."""
        peer = normal(request.client.host) if request.client else UNKNOWN
        forwarded = request.headers.getlist("x-forwarded-for")
        return self.host.proxies.client_of(peer, forwarded)

    # Routes

    async def room(self, request: Request) -> Response:
        """``/rooms/{room}``: one route, so that ``Allow`` names all of its methods."""
        post = request.method == "POST"
        return await (self.publish(request) if post else self.stream(request))

    async def stream(self, request: Request) -> Response:
        """``GET /rooms/{room}``: the room's messages while the client stays."""
        host = self.host
        cursor = cursor_of(request)
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        with ExitStack() as stack:
            stream = Stream(self.address(request), socket_of(request), cursor)
            stack.enter_context(self.admitted(stream, request))
            stream.outbox = host.parts.outbox(stream, host.metrics)
            host.metrics.streams += 1
            presence = request.query_params.get("presence") == "true"
            await self.join(stream, request, cursor, presence)
            keepalive = host.parts.heartbeat.interval
            return StreamResponse(stream, keepalive, stack.pop_all())

    async def poll(self, request: Request) -> Response:
        """``GET /rooms/{room}/poll``: missed messages, or else the next message."""
        host = self.host
        wait = wait_of(request)
        cursor = cursor_of(request)
        limit = host.settings.outbox_limit or math.inf
        remembers = host.parts.history.limit > 0
        socket = socket_of(request)
        poll = Poll(self.address(request), socket, cursor, limit, remembers)
        with self.admitted(poll, request):
            host.metrics.polls += 1
            await self.join(poll, request, cursor)
            news = asyncio.ensure_future(poll.ready.wait())
            gone = asyncio.ensure_future(departure(request))
            try:
                await asyncio.wait(
                    (news, gone), timeout=wait, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                news.cancel()
                gone.cancel()
        assert poll.ending is not None
        if poll.ending is not closing.NORMAL and not poll.items:
            raise self.refusal(poll.ending)
        return reply(200, poll.text())

    async def publish(self, request: Request) -> Response:
        """``POST /rooms/{room}``: the body, JSON, is a message's payload."""
        host = self.host
        post = Publisher(self.address(request), socket_of(request))
        with self.admitted(post, request):
            name = post.identity.at(neighbourhood(post.address))
            if not self.rates.take(name, time.monotonic()):
                detail = f"more than {self.rates.rate:g} messages a second"
                raise BadMessage("rate_limited", detail)
            host.metrics.received += 1
            body = await self.body(request)
            share = Share(host.turns)  # like that of a connection
            if not share.allows(len(body)):
                await host.turns.wait()
            bucket = self.rates.of(name, time.monotonic())
            await charged(self.serve(post, request, body), len(body), share, bucket)
            try:
                async with Patience(host.settings.handshake_timeout):
                    answer = await post.answer
            except TimeoutError:
                raise BadMessage("broker_down", "no answer in time") from None
        if isinstance(answer, Error):
            raise BadMessage(answer.code, answer.detail)
        return reply(200, messages.encode(Ack(answer.room, answer.seq)))

    async def serve(self, post: Publisher, request: Request, body: str) -> None:
        """Publish the body of a POST.

        Raises:
            BadMessage: It may not be published.

        """
        message = decoding.checked(
            Publish,
            room=request.path_params["room"],
            payload=decoding.payload(body),
            key=request.headers.get("idempotency-key"),
            ref="post",
        )
        await self.handle(post, message)

    async def status(self, request: Request) -> Response:
        """``/healthz`` and ``/readyz``, as on the WebSocket port."""
        found = routes.answer(self.host, handshake(request))
        return Response(found.body, found.status_code, dict(found.headers.raw_items()))

    # Shared by the routes

    @contextmanager
    def admitted(self, visitor: Visitor, request: Request) -> Iterator[None]:
        """Admit a visitor like a handshake; after the block, forget it.

        Raises:
            Refused: It is not admitted.
            BadMessage: It has a body, and is no POST.

        """
        host = self.host
        asked = handshake(request)
        routes.check_host(asked)
        size = sum(len(name) + len(value) for name, value in request.headers.raw)
        address = len(request.scope["raw_path"]) + len(request.scope["query_string"])
        if size + address > HEADERS:
            raise Refused(431, "too many headers, or too long an address")
        if request.method != "POST" and has_body(request):
            raise BadMessage("bad_message", "only a POST has a body")
        admission = host.parts.admission
        if host.draining:
            raise Refused(503, "the server is draining", {"Retry-After": "1"})
        visitor.place = request.state.place
        visitor.identity = admission.admit(visitor, asked)
        host.visitors.add(visitor)
        try:
            admission.opened(visitor)
            yield
        finally:
            if visitor.ending is not None:
                host.metrics.closes[visitor.ending.code, SERVER] += 1
            visitor.left()
            host.visitors.discard(visitor)
            host.application.closed(visitor)
            admission.released(visitor)
            if visitor.place.through:
                admission.places.disclaim(visitor.place)

    async def join(
        self,
        visitor: Visitor,
        request: Request,
        cursor: Cursor | None,
        presence: bool = False,
    ) -> None:
        asked = decoding.checked(
            Join,
            room=request.path_params["room"],
            after=cursor,
            presence=presence,
            from_start=True,
        )
        await self.handle(visitor, asked)
        if not visitor.rooms and visitor.ending is None:
            raise Refused(404, "there are no rooms at this stage")

    async def handle(self, visitor: Visitor, message: Join | Publish) -> None:
        """Serve a message like one from a WebSocket.

        Raises:
            BadMessage: It may not be served.
            Refused: The application failed (500).

        """
        try:
            await self.host.application.handle(visitor, message)
        except BadMessage:
            raise
        except Exception:
            log.exception("request %s failed", visitor.name)
            raise Refused(500, closing.INTERNAL.reason) from None

    async def body(self, request: Request) -> str:
        """Return the body of a request.

        Raises:
            Refused: It is too long (413), or comes too slowly (408).
            BadMessage: It is not UTF-8.

        """
        limit = self.host.settings.message_size_limit or math.inf
        too_big = Refused(413, f"a message may have {limit} bytes")
        declared = request.headers.get("content-length", "0")
        if declared.isdigit() and int(declared[:18]) > limit:
            raise too_big
        data = bytearray()
        try:
            async with Patience(self.host.settings.handshake_timeout):
                async for part in request.stream():
                    data += part
                    if len(data) > limit:
                        raise too_big
            return data.decode()
        except TimeoutError:
            raise Refused(408, "the body did not come in time") from None
        except UnicodeDecodeError:
            raise BadMessage("bad_json", "the body is not UTF-8") from None

    def refusal(self, close: closing.Close) -> Refused:
        """Return the refusal for a poll that the server ends."""
        if close is closing.TOKEN_EXPIRED:
            return Refused(401, close.reason, {"WWW-Authenticate": "Bearer"})
        after = math.ceil(closing.retry_after(close.reason) or 1)
        return Refused(503, close.reason, {"Retry-After": str(max(1, after))})

    async def refuse(self, request: Request, exc: Exception) -> Response:
        """Return the response to an error: an ``error`` message with a status."""
        headers: Mapping[str, str] = {}
        if isinstance(exc, BadMessage):
            status, error = STATUS[exc.code], Error(exc.code, exc.detail)
            if status in (429, 503):
                headers = {"Retry-After": "1"}
        elif isinstance(exc, Refused):
            self.host.parts.admission.places.stand(request.state.place)
            status, headers = exc.status, exc.headers
            error = Error(CODES.get(status, "bad_message"), exc.detail)
            about = {"address": self.address(request), "status": status}
            log.info("request refused", extra={**about, "detail": exc.detail})
        elif isinstance(exc, HTTPException):
            status, headers = exc.status_code, exc.headers or {}
            error = Error(CODES.get(status, "bad_message"), exc.detail)
        else:
            status, error = 400, Error("bad_message", "the request broke off")
        self.host.metrics.refused[status] += 1
        if passes(status) and wants_events(request):
            return turned_away(error.detail, float(headers.get("Retry-After", 1)))
        return reply(status, messages.encode(error), headers)


def reply(status: int, body: bytes, headers: Mapping[str, str] = {}) -> Response:
    own = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    headers = {**own, **headers}
    return Response(body, status, headers, media_type="application/json")


def passes(status: int) -> bool:
    """Return whether a refusal will pass, so that the client may try again."""
    return status == 429 or status >= 500
