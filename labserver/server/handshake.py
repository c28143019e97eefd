"""The answer to a request: a page, a refusal, or a WebSocket.

What is refused is refused before the upgrade, with a complete HTTP response.
"""

from __future__ import annotations

import logging
from typing import Protocol

from websockets.http11 import Request, Response

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
    """The server's side of handshakes.

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
        # A larger message will end the connection.
        self.about = {SIZE_LIMIT_HEADER: str(size_limit)} if size_limit else {}

    def answer(self, connection: LabConnection, request: Request) -> bool:
        """Prepare the answer to a request: plain HTTP, or an upgrade if admitted.

        Returns:
            Whether the connection is a WebSocket now.

        """
        protocol = connection.protocol
        try:
            response = self.response_to(connection, request)
        except Refused as exc:
            response = routes.refusal(exc)
        except Exception:
            log.exception("the request of connection %s failed", connection.name)
            response = routes.respond(500, "the server failed\n")
        if response is None and protocol.upgrade(request, self.about):
            return True
        self.admission.places.stand(connection.place)
        if response is not None:
            protocol.send_response(response)
        return False

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
            if log.isEnabledFor(logging.INFO):
                about = {
                    "connection": connection.name,
                    "address": connection.address,
                    "status": exc.status,
                    "detail": exc.detail,
                }
                log.info("handshake refused", extra=about)
            raise
