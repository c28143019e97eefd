"""The deadline of the HTTP port: which peers are cut off, and which make progress."""

from __future__ import annotations

import asyncio

import pytest

from labserver.http import listener
from labserver.http.listener import BoundedProtocol


class Waiting(asyncio.Transport):
    """A transport with unsent bytes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.size

    def abort(self) -> None:
        self.aborted = True


class Looked(BoundedProtocol):
    """A protocol without a socket; it notes that it gives its peer more time."""

    def __init__(self, transport: Waiting) -> None:
        self.transport = transport
        self.loop = asyncio.get_running_loop()
        self.due = None
        self.patient = False

    def expect(self) -> None:
        self.patient = True


@pytest.mark.parametrize(
    ("unsent", "took", "patient"),
    [
        (8, 100, True),  # three bytes fewer wait than before
        (5, 99, True),  # none fewer here, but the peer took one from the kernel
        (5, 100, False),
        (0, 100, False),
    ],
)
async def test_peer_that_takes_bytes_gets_more_time(
    unsent: int, took: int, patient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "taken", lambda transport: 100)
    monkeypatch.setattr(listener, "abort", Waiting.abort)
    transport = Waiting(5)
    protocol = Looked(transport)
    protocol.look((unsent, took))
    assert protocol.patient is patient and not transport.aborted
    assert (protocol.due is None) is patient  # the others are looked at once more
    protocol.expected()
    protocol.look((unsent, took), last=True)
    assert transport.aborted is not patient
