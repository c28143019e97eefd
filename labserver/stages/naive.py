"""For each part of a server the naive answer, in a few lines.

Leaving a stage out (``--without``) puts the naive answer back, so that two runs differ
in one idea.
"""

from __future__ import annotations

from collections.abc import Sequence

from websockets.http11 import Request

from labserver.contract.messages import Cursor, Event, Refreshed
from labserver.contract.tokens import ANONYMOUS, Identity
from labserver.contract.wire import Chunk
from labserver.server.connection import LabConnection
from labserver.server.metrics import Metrics
from labserver.server.parts import Position
from labserver.server.places import Places


class AdmitAnyone:
    """Every handshake becomes a socket."""

    def __init__(self) -> None:
        self.places = Places()

    def admit(self, connection: LabConnection, request: Request) -> Identity:
        return ANONYMOUS

    def opened(self, connection: LabConnection) -> None:
        pass

    def released(self, connection: LabConnection) -> None:
        pass

    def refresh(self, connection: LabConnection, token: str) -> Refreshed | None:
        return None


class NoHeartbeat:
    """A dead peer stays until TCP gives up, which takes hours."""

    interval = None

    def watch(self, connection: LabConnection) -> None:
        pass

    def forget(self, connection: LabConnection) -> None:
        pass

    async def start(self, metrics: Metrics) -> None:
        pass

    async def stop(self) -> None:
        pass


class DirectOutbox:
    """Everything goes to the socket at once; what it does not take piles up."""

    __slots__ = ("write",)

    def __init__(self, connection: LabConnection, metrics: Metrics) -> None:
        self.write = connection.transport.write

    def deliver(self, chunk: Chunk) -> None:
        self.write(chunk.data)

    def control(self, frame: bytes) -> None:
        self.write(frame)

    def paused(self) -> None:
        pass

    def resumed(self) -> None:
        pass

    def waiting(self) -> int:
        return 0


class NoHistory:
    """Who was away has missed what was said."""

    limit = 0
    ttl = 0.0
    replay_limit = 0

    def missed(
        self, cursor: Cursor | None, position: Position
    ) -> Sequence[Event] | None:
        return None
