"""The answer to a request: a page, a refusal, or a WebSocket.

What is refused is refused before the upgrade, with a complete HTTP response.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from labserver.contract import wire
from labserver.contract.messages import SIZE_LIMIT_HEADER
from labserver.errors import Refused
from labserver.server import routes
from labserver.server.connection import LabConnection
from labserver.server.metrics import Metrics
from labserver.server.parts import Admission
from labserver.server.proxies import Proxies

log = logging.getLogger("labserver")


class Gatehouse(routes.Status, Protocol):
    """What a handshake needs from its server, besides the pages' figures."""

    draining: bool
    metrics: Metrics
    proxies: Proxies


class Handshake:
    """The server's side of handshakes, as the library's hooks.

    Args:
        server: The server.
        admission: Decides which clients get a socket.
        size_limit: Bytes that a message may have; 0 for no limit.

    """

    def __init__(
        self, server: Gatehouse, admission: Admission, size_limit: int
    ) -> None:
        self.server = server
        self.admission = admission
        self.size_limit = size_limit

    def process_request(
        self, connection: ServerConnection, request: Request
    ) -> Response | None:
        """Answer plain HTTP; let the admission decide on an upgrade.

        Returns:
            The response, or None to go on with the handshake.

        """
        assert isinstance(connection, LabConnection)
        try:
            response = self.response_to(connection, request)
        except Refused as exc:
            response = routes.refusal(exc)
        if response is not None:
            self.admission.places.stand(connection.place)
        return response

    def response_to(
        self, connection: LabConnection, request: Request
    ) -> Response | None:
        """Return the response to a request; None to go on with the handshake.

        Raises:
            Refused: The request is malformed, or the client is not admitted.

        """
        routes.check_host(request)
        upgrade = routes.wants_upgrade(request)
        if upgrade:
            routes.check_upgrade(request)
        elif not routes.asks_admission(request):
            return routes.answer(self.server, request)
        self.admit(connection, request)
        return None if upgrade else routes.respond(200, "a handshake is welcome\n")

    def admit(self, connection: LabConnection, request: Request) -> None:
        """Give a connection the identity of its client.

        Raises:
            Refused: The server drains, or the client is not admitted.

        """
        forwarded = request.headers.get_all("X-Forwarded-For")
        address = self.server.proxies.client_of(connection.address, forwarded)
        connection.address = address
        try:
            if self.server.draining:
                raise Refused(503, "the server is draining", {"Retry-After": "1"})
            connection.identity = self.admission.admit(connection, request)
        except Refused as exc:
            self.server.metrics.refused[exc.status] += 1
            log.info(
                "handshake refused",
                extra={
                    "connection": connection.name,
                    "address": connection.address,
                    "status": exc.status,
                    "detail": exc.detail,
                },
            )
            raise

    def process_response(
        self, connection: ServerConnection, request: Request, response: Response
    ) -> None:
        """Add a header with the size limit: a larger message ends the connection."""
        if self.size_limit and response.status_code == 101:
            response.headers[SIZE_LIMIT_HEADER] = str(self.size_limit)

    def select_subprotocol(
        self, connection: ServerConnection, offered: Sequence[Subprotocol]
    ) -> Subprotocol | None:
        """Return the first subprotocol that both sides speak, or None."""
        return next((name for name in offered if name in (wire.JSON, wire.CBOR)), None)
