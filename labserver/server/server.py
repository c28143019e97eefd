"""A server made of parts: it listens, answers HTTP, serves clients, and drains.

It knows the protocols of the parts, and no stage. The life of a connection, from
:meth:`LabServer.arrived` to :meth:`LabServer.lost`, stands there in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from websockets.http11 import Request
from websockets.protocol import OPEN

from labserver import __version__
from labserver.contract import closing, decoding, wire
from labserver.contract.cbor import from_cbor
from labserver.contract.messages import Error, Hello
from labserver.errors import BadMessage
from labserver.server.connection import LabConnection
from labserver.server.departures import about, note_end
from labserver.server.goodbye import say_goodbye
from labserver.server.handshake import Handshake
from labserver.server.hub import Hub
from labserver.server.lag import LagProbe
from labserver.server.limits import TokenBucket
from labserver.server.listening import Door, open_port, tls, url_of
from labserver.server.member import Member
from labserver.server.metrics import Gauge, Metrics, render
from labserver.server.parts import Lab, Parts
from labserver.server.places import Place
from labserver.server.presence import Attendance
from labserver.server.proxies import Proxies
from labserver.server.sockets import ACCEPTS, widen
from labserver.server.tasks import keep
from labserver.server.turns import Turns
from labserver.server.upgrade import LabProtocol
from labserver.settings import Settings

log = logging.getLogger("labserver")
CLOSE_TIMEOUT = 2.0  # seconds for the goodbyes of TLS
LAST = 1.0  # seconds after a drain's deadline in which remaining work is stopped


class LabServer:
    """The server of one process, as an async context manager.

    Args:
        parts: From :func:`labserver.stages.build`.
        settings: The settings with which the parts were built.
        stage: Name of the stage in ``hello``.
        host: Address to listen on.
        port: Port to listen on; 0 lets the kernel choose, see :attr:`port`.
        open_web: Opens the HTTP port for clients without WebSocket, or returns None.
        metrics: Its counters; new ones unless given.

    """

    def __init__(
        self,
        parts: Parts,
        settings: Settings,
        stage: str = "",
        host: str = "127.0.0.1",
        port: int = 0,
        open_web: Callable[[LabServer], Door | None] = lambda server: None,
        metrics: Metrics | None = None,
    ) -> None:
        self.parts = parts
        self.settings = settings
        self.stage = stage
        self.host = host.removeprefix("[").removesuffix("]")
        self.port = port
        self.replica = (
            settings.replica or f"{socket.gethostname()}-{secrets.token_hex(2)}"
        )
        self.proxies = Proxies(settings.trusted_proxies)
        size_limit = settings.message_size_limit
        self.handshake = Handshake(self, parts.admission, size_limit)
        self.patience = settings.handshake_timeout
        self.metrics = metrics or Metrics()
        self.turns = Turns()
        self.lag = LagProbe(self.metrics.loop_lag, then=self.look_at_broker)
        self.hears = True  # whether the broker heard messages at the last look
        self.sockets: set[LabConnection] = set()  # all, also those still in handshake
        self.connections: set[LabConnection] = set()  # those that have got their hello
        self.conversations: set[asyncio.Task[Any]] = set()
        self.visitors: set[Member] = set()  # streams, polls and POSTs
        self.draining = False
        self.over = False  # whether new sockets are aborted, since it has drained
        self.deserted = asyncio.Event()  # whether a drain's last client has left
        self.drained = asyncio.Event()
        self.attendance = Attendance(parts.broker.here, self.metrics.failures)
        self.hub = Hub(self.metrics, parts.broker.unsubscribe, self.attendance.stir)
        self.application = parts.application(
            Lab(
                self.hub,
                parts.broker,
                parts.history,
                parts.admission,
                self.metrics,
                self.attendance,
            )
        )
        self.listener: asyncio.Server
        self.extensions = [wire.deflate_offer()]
        self.open_web = open_web
        self.web: Door | None = None

    # Life of the server

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as begun:  # undoes all steps if a later one fails
            listening = self.open_socket()
            begun.callback(listening.close)
            self.web = self.open_web(self)
            if self.web is not None:
                begun.push_async_callback(self.web.stop, 0.0)
            await self.parts.broker.start(self.hub, self.parts.history, self.metrics)
            begun.push_async_callback(self.parts.broker.stop)
            await self.parts.heartbeat.start(self.metrics)
            begun.push_async_callback(self.parts.heartbeat.stop)
            self.looking = keep("lag", self.lag.run, self.metrics.failures)
            begun.callback(self.looking.cancel)
            self.listener = await self.listen(listening)
            begun.callback(self.listener.close)
            if self.web is not None:
                await self.web.start()
            begun.pop_all()
        where = {"url": self.url, "stage": self.stage, "replica": self.replica}
        log.info("listening", extra=where)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.drain(self.settings.drain_timeout if exc_type is None else 0.0)

    def open_socket(self) -> socket.socket:
        """Bind to the port."""
        self.tls = tls(self.settings)
        listening = open_port(self.host, self.port, self.settings)
        self.port = listening.getsockname()[1]
        return listening

    async def listen(self, listening: socket.socket) -> asyncio.Server:
        """Accept connections."""
        tls_timeout: dict[str, Any] = {}
        if self.tls:
            tls_timeout = {
                "ssl_handshake_timeout": self.settings.handshake_timeout,
                "ssl_shutdown_timeout": CLOSE_TIMEOUT,
            }
        server = await asyncio.get_running_loop().create_server(
            self.connect, sock=listening, ssl=self.tls, backlog=ACCEPTS, **tls_timeout
        )
        widen(listening)
        return server

    def connect(self) -> LabConnection:
        """Return the connection of a new socket, as the loop's protocol."""
        protocol = LabProtocol(
            extensions=self.extensions,
            max_size=self.settings.message_size_limit or None,
        )
        # Pause at the first byte that waits. At a limit of 0 the transport of TLS
        # pauses with an empty buffer.
        write_limit = 1 if self.tls else 0
        return LabConnection(self, protocol, write_limit)

    @property
    def url(self) -> str:
        return url_of(self.host, self.port, self.settings)

    async def drain(self, within: float) -> None:
        """Close all connections, after serving the messages that were sent before.

        Args:
            within: Seconds until remaining connections are aborted and remaining work
                is stopped. Everything is over ``LAST`` seconds later.

        """
        if self.draining:
            await self.drained.wait()
            return
        self.draining = True
        log.info("draining", extra={"connections": len(self.connections)})
        deadline = time.monotonic() + within
        try:
            everybody: list[Member] = [*self.connections, *self.visitors]
            rate = self.settings.admission_rate
            await say_goodbye(everybody, within / 2, rate)
            await self.end_conversations(deadline)
            self.looking.cancel()
            await self.parts.heartbeat.stop()
            await self.attendance.stop(deadline + LAST * 3 / 4)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until(deadline + LAST)):
                    await self.parts.broker.stop()
        finally:
            self.drained.set()
        log.info("drained")

    async def end_conversations(self, deadline: float) -> None:
        """Let conversations and requests finish until a deadline; then stop them.

        Args:
            deadline: Time on the clock ``time.monotonic``.

        """
        closing_down = []
        if self.web is not None:
            closing_down.append(asyncio.create_task(self.web.stop(deadline)))
        self.look_for_end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(until(deadline)):
                await self.deserted.wait()
        self.listener.close()
        self.over = True
        for connection in list(self.sockets):
            connection.abort()
        for conversation in list(self.conversations):
            conversation.cancel()  # its queue might take any time to serve
        closing_down += self.conversations
        closing_down.append(asyncio.create_task(self.listener.wait_closed()))
        _, late = await asyncio.wait(closing_down, timeout=until(deadline + LAST / 2))
        for each in late:  # an application ignores its cancellation
            each.cancel()
            log.warning("a conversation goes on after the drain")

    # Life of a connection

    def arrived(self, connection: LabConnection) -> Place:
        self.sockets.add(connection)
        if self.over:
            connection.loop.call_soon(connection.abort)
        address = connection.address
        known = None if self.proxies.trusts(address) else address
        return self.parts.admission.places.arrive(known, connection.abort)

    def requested(self, connection: LabConnection, request: Request) -> None:
        """Answer a request. If it becomes a WebSocket, say hello and begin to serve."""
        if not self.handshake.answer(connection, request):
            return connection.send_data()
        try:
            self.open(connection)
        except Exception:
            log.exception("connection %s failed", connection.name)
            connection.cut(closing.INTERNAL)

    def heard(self, connection: LabConnection) -> None:
        """Begin to serve what waits; a task costs 2 KB, and an idle client has none."""
        conversation = connection.loop.create_task(self.converse(connection))
        self.conversations.add(conversation)
        conversation.add_done_callback(self.fell_silent)

    async def converse(self, connection: LabConnection) -> None:
        """Serve one client until none of its messages waits."""
        try:
            while (data := await connection.receive()) is not None:
                if connection.ending is None:
                    await connection.charged(self.serve(connection, data), len(data))
        finally:
            if connection.gone:
                self.left(connection)  # again: it may have joined a room since
            if connection not in self.sockets:
                connection.untangle()

    def fell_silent(self, conversation: asyncio.Task[Any]) -> None:
        self.conversations.discard(conversation)
        if self.draining:
            self.look_for_end()

    def look_for_end(self) -> None:
        """Note when all clients of a drain have been served and have left."""
        if not self.connections and not self.conversations:
            self.deserted.set()

    def open(self, connection: LabConnection) -> None:
        rate = self.settings.message_rate_limit
        if rate:
            connection.bucket = TokenBucket(rate, 2 * rate, time.monotonic())
        protocol = connection.protocol
        connection.variant = wire.negotiated(protocol.subprotocol, protocol.extensions)
        if protocol.state is OPEN and not connection.gone:  # no goodbye yet
            connection.outbox = self.parts.outbox(connection, self.metrics)
        self.metrics.accepted += 1
        self.connections.add(connection)
        connection.welcome(
            Hello(
                connection.name,
                connection.identity.user,
                self.stage,
                self.replica,
                self.parts.heartbeat.interval,
            )
        )
        if log.isEnabledFor(logging.DEBUG):
            log.debug("connection opened", extra=about(connection))
        self.parts.admission.opened(connection)
        self.parts.heartbeat.watch(connection)
        connection.forget_handshake()

    async def serve(self, connection: LabConnection, data: str | bytes) -> None:
        """Serve one message; answer with an error, or close, if that fails."""
        self.metrics.received += 1
        try:
            text = self.text_of(connection, data)
            if text is None:
                return
            if not connection.within_rate():
                detail = (
                    f"more than {self.settings.message_rate_limit:g} messages a second"
                )
                raise BadMessage("rate_limited", detail, decoding.ref_of(text))
            await self.application.receive(connection, text)
        except BadMessage as exc:
            connection.reply(Error(exc.code, exc.detail, exc.ref))
        except Exception:
            name = connection.name
            log.exception("connection %s failed", name, extra={"connection": name})
            connection.end(closing.INTERNAL)

    def text_of(self, connection: LabConnection, data: str | bytes) -> str | None:
        """Return a message as JSON; None if its frame has the wrong type.

        Raises:
            BadMessage: It is not CBOR, or JSON cannot express it.

        """
        cbor = connection.variant.subprotocol == wire.CBOR
        if isinstance(data, str) and not cbor:
            return data
        if isinstance(data, bytes) and cbor:
            return from_cbor(data)
        kind = "text frame on a CBOR connection" if cbor else closing.NOT_TEXT.reason
        connection.end(closing.NOT_TEXT.because(kind))
        return None

    def left(self, connection: LabConnection) -> None:
        """Forget a connection to which nothing is sent any more.

        The messages that it has sent are still served.
        """
        self.parts.heartbeat.forget(connection)
        self.parts.admission.released(connection)
        self.application.closed(connection)

    def lost(self, connection: LabConnection) -> None:
        """Give its place back; count and log its end if it had been admitted."""
        self.sockets.discard(connection)
        self.parts.admission.places.leave(connection.place)
        if connection in self.connections:
            self.connections.discard(connection)
            note_end(connection, self.metrics)
            if self.draining:
                self.look_for_end()

    def look_at_broker(self) -> None:
        """Log when messages of the broker no longer arrive, and when they do again."""
        hears = not self.parts.broker.deaf
        if hears != self.hears:
            self.hears = hears
            log.warning("the broker is %s", "heard again" if hears else "lost")

    # Called by the routes

    def unready(self) -> str | None:
        if self.draining:
            return "draining"
        if failed := self.metrics.failures.recent():
            return f"the task {failed} failed"
        return "the broker is deaf" if self.parts.broker.deaf else None

    def metrics_page(self) -> bytes:
        connections, visitors = len(self.connections), len(self.visitors)
        rooms = len(self.hub.rooms)
        everybody: list[Member] = [*self.connections, *self.visitors]
        # Nothing waits for the others. Asked of 10,000, this took 10 ms of the loop.
        waiting = sum(each.outbox.waiting() for each in everybody if each.paused)
        worst = max((each.latency for each in self.connections), default=0.0)
        up = not self.parts.broker.deaf
        return render(
            self.metrics,
            [
                Gauge("labserver_connections", "Open WebSockets.", connections),
                Gauge("labserver_visitors", "Open streams, polls and POSTs.", visitors),
                Gauge("labserver_rooms", "Rooms with a local member.", rooms),
                Gauge("labserver_outbox_bytes", "Bytes for slow readers.", waiting),
                Gauge("labserver_broker_up", "1 if the broker is heard.", up),
                Gauge("labserver_draining", "1 during a drain.", self.draining),
                Gauge("labserver_ping_max_seconds", "Slowest answer to a ping.", worst),
            ],
            {"replica": self.replica, "stage": self.stage, "version": __version__},
        )


def until(moment: float) -> float:
    """Return the seconds left until a deadline of ``time.monotonic``, at least 0."""
    return max(0.0, moment - time.monotonic())
