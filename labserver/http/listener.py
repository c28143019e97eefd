"""uvicorn beside the WebSocket server: same process, same loop, no signals, no log.

uvicorn has no deadlines for the TLS handshake, for a request's head, and for a peer
that does not read an answer; this module adds them. At the end of a drain, all
remaining connections are aborted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from labserver.http.app import HEADERS, Host, Web
from labserver.server.member import LAST_LOOK
from labserver.server.places import Place, Places
from labserver.server.proxies import UNKNOWN, Proxies, normal
from labserver.server.sockets import ACCEPTS, abort, taken, widen
from labserver.server.tasks import Failures, again

log = logging.getLogger("labserver")

FAREWELL = 0.2  # seconds that requests have to end when their peer is gone
LEAST_PATIENCE = 20.0  # seconds; less would end readers that are only slow


def notice_dead(listening: socket.socket, within: float) -> None:
    """Let the kernel break connections to peers that acknowledge nothing.

    Connections inherit the option from the listening socket. Linux only.

    Args:
        listening: The listening socket.
        within: Seconds in which sent data must be acknowledged.

    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        option = socket.TCP_USER_TIMEOUT
        listening.setsockopt(socket.IPPROTO_TCP, option, round(within * 1000))


class BoundedProtocol(H11Protocol):
    """One socket, with a deadline for the head of each request."""

    timeout: float
    proxies: Proxies
    places: Places
    place: Place

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.made = time.monotonic()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Pause at the first byte that waits: the outbox has the policy. At a limit of 0
        # the transport of TLS pauses with an empty buffer, and never resumes.
        encrypted = transport.get_extra_info("sslcontext")
        transport.set_write_buffer_limits(1 if encrypted else 0)
        peer = normal(self.client[0]) if self.client else UNKNOWN
        known = None if self.proxies.trusts(peer) else peer
        self.place = self.places.arrive(known, partial(abort, transport))
        own = {"transport": transport, "place": self.place}
        self.app_state = {**self.app_state, **own}
        # The deadline counts from the accept, TLS included. Unsent bytes are TLS's own,
        # so the peer makes no progress by taking them.
        left = max(0.0, self.made + self.timeout - time.monotonic())
        self.due: asyncio.TimerHandle | None
        self.due = self.loop.call_later(left, self.look, (0, sys.maxsize))

    def connection_lost(self, exc: Exception | None) -> None:
        self.expected()
        self.places.leave(self.place)
        super().connection_lost(exc)

    def expect(self) -> None:
        """Wait for a request, or for the peer to take the end of the last answer."""
        self.expected()
        # Also while it is closing: it ends when the peer has taken the last byte.
        progress = self.unsent(), taken(self.transport)
        self.due = self.loop.call_later(self.timeout, self.look, progress)

    def unsent(self) -> int:
        try:
            return self.transport.get_write_buffer_size()
        except AttributeError:  # with TLS the transport may already be gone
            return 0

    def expected(self) -> None:
        if self.due is not None:
            self.due.cancel()
            self.due = None

    def look(self, before: tuple[int, int], last: bool = False) -> None:
        """Abort a peer that sends nothing, and takes nothing of what waits for it."""
        unsent, took = before
        now = self.unsent()
        if now < unsent or (now and taken(self.transport) > took):
            self.expect()
        elif not last:
            self.due = self.loop.call_later(LAST_LOOK, self.look, before, True)
        else:
            abort(self.transport)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self.expected()
            names = {name for name, _ in self.headers}
            if {b"content-length", b"transfer-encoding"} <= names:
                # A proxy may have read another length than this server. The next bytes
                # may be another client's request (RFC 9112 section 6.3).
                self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        self.expect()
        super().on_response_complete()


class Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: the process has its own.

    It wakes up once a second (for the header ``Date``) instead of ten times.
    """

    def __init__(
        self, config: uvicorn.Config, handshake_timeout: float, failures: Failures
    ) -> None:
        super().__init__(config)
        self.failures = failures
        self.handshake_timeout = handshake_timeout
        self.leaving = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen as uvicorn does, with a shorter deadline for TLS than its minute."""
        config = self.config
        protocol: Any = config.http_protocol_class
        make = partial(
            protocol,
            config=config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                make,
                sock=each,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=self.handshake_timeout if config.ssl else None,
            )
            for each in sockets or []
        ]
        for each in sockets or []:
            widen(each)
        self.started = True

    async def main_loop(self) -> None:
        await again("web", self._tick, self.failures)

    async def _tick(self) -> None:
        while not self.leaving.is_set():
            await self.on_tick(0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self.leaving.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class WebServer:
    """The HTTP listener of one server.

    Args:
        host: The server whose rooms it serves.
        listening: A bound socket.

    """

    def __init__(self, host: Host, listening: socket.socket) -> None:
        timeout = host.settings.handshake_timeout
        protocol = type(
            "Protocol",
            (BoundedProtocol,),
            {
                "timeout": timeout,
                "proxies": host.proxies,
                "places": host.parts.admission.places,
            },
        )
        config = uvicorn.Config(
            Web(host).app,
            http=protocol,
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,  # it would hold the tokens of query strings
            server_header=False,
            proxy_headers=False,
            ssl_certfile=host.settings.tls_cert or None,
            ssl_keyfile=host.settings.tls_key or None,
            backlog=ACCEPTS,
            h11_max_incomplete_event_size=HEADERS,
        )
        self.listening = listening
        beats, stuck = host.parts.heartbeat.interval, host.settings.stuck_timeout
        if beats and stuck:
            # Keepalive comments have no answer. Without this option, the kernel notices
            # a dead peer only after a quarter of an hour (tcp(7)).
            notice_dead(listening, max(LEAST_PATIENCE, beats, 2 * stuck))
        self.server = Server(config, timeout, host.metrics.failures)
        self.task: asyncio.Task[Any] | None = None

    @property
    def url(self) -> str:
        host, port, *_ = self.listening.getsockname()
        scheme = "https" if self.server.config.is_ssl else "http"
        name = f"[{host}]" if ":" in host else host
        return f"{scheme}://{name}:{port}"

    async def start(self) -> None:
        """Return when it accepts connections."""
        serving = self.server.serve([self.listening])
        self.task = asyncio.create_task(serving)
        while not self.server.started:
            if self.task.done():
                await self.task
            await asyncio.sleep(0)

    async def stop(self, deadline: float) -> None:
        """Let open requests end until a deadline, then abort them.

        Args:
            deadline: Time on the clock ``time.monotonic``.

        """
        if self.task is None:
            return self.listening.close()
        self.server.leaving.set()
        left = max(0.0, deadline - time.monotonic())
        await asyncio.wait((self.task,), timeout=left)
        state = self.server.server_state
        for connection in list(state.connections):
            abort(connection.transport)
        await asyncio.wait((self.task,), timeout=FAREWELL)
        for task in list(state.tasks):  # these wait for something else than a peer
            task.cancel()
        self.server.force_exit = True  # a task may ignore its cancellation
        await self.task
