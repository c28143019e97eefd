"""The naive answer for each part of a server, in a few lines.

A stage that is left out (``--without``) is replaced by the naive answer, so that two
runs differ in one idea.
"""

from __future__ import annotations

from collections.abc import Sequence

from websockets.http11 import Request

from labserver.contract.messages import Cursor, Event, Refreshed
from labserver.contract.tokens import ANONYMOUS, Identity
from labserver.contract.wire import Chunk
from labserver.server.connection import LabConnection
from labserver.server.member import Member, Reader
from labserver.server.metrics import Metrics
from labserver.server.parts import Position
from labserver.server.places import Places


class AdmitAnyone:
    """Every handshake becomes a socket."""

    def __init__(self) -> None:
        self.places = Places()

    def admit(self, member: Member, request: Request) -> Identity:
        return ANONYMOUS

    def opened(self, member: Member) -> None:
        pass

    def released(self, member: Member) -> None:
        pass

    def refresh(self, member: Member, token: str) -> Refreshed | None:
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
    """Everything is written at once; bytes that the peer does not take pile up."""

    __slots__ = ("transport", "write")

    def __init__(self, reader: Reader, metrics: Metrics) -> None:
        self.transport = reader.transport
        self.write = reader.transport.write

    def deliver(self, chunk: Chunk) -> None:
        self.write(chunk.data)

    def control(self, frame: bytes) -> None:
        self.write(frame)

    def paused(self) -> None:
        pass

    def resumed(self) -> None:
        pass

    def waiting(self) -> int:
        return self.transport.get_write_buffer_size()


class NoHistory:
    """A client that was away has missed the messages of that time."""

    limit = 0
    ttl = 0.0
    replay_limit = 0

    def missed(
        self, cursor: Cursor | None, position: Position
    ) -> Sequence[Event] | None:
        return None
