"""Every well-formed message comes back.

Without this, there is no conversation: a server that does not guard its parser lets
one broken message end the connection, or the process.

How: hello on opening, then each JSON value returns as the payload of an ``echo``, byte
for byte. What is not JSON is answered with an ``error``, and the connection lives.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from labserver.contract.messages import Echo, Refresh, Refreshed, decode, well_formed
from labserver.errors import BadMessage
from labserver.server.connection import LabConnection
from labserver.server.parts import Lab, Parts
from labserver.settings import Settings


class EchoApplication:
    """Answer every value with itself."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    async def receive(self, connection: LabConnection, text: str) -> None:
        answer: msgspec.Struct = Echo(well_formed(text))
        # Tokens belong to admission. Where anyone is admitted there are none, and a
        # refresh is a value like any other.
        if '"refresh"' in text and (message := _refresh(text)) is not None:
            refreshed = self.lab.admission.refresh(connection, message.token)
            if refreshed is not None:
                answer = Refreshed(refreshed.expires, message.ref)
        connection.reply(answer)

    def closed(self, connection: LabConnection) -> None:
        pass


def _refresh(text: str) -> Refresh | None:
    try:
        message = decode(text)
    except BadMessage:
        return None
    return message if isinstance(message, Refresh) else None


def extend(parts: Parts, settings: Settings) -> Parts:
    """Replace the application."""
    return replace(parts, application=EchoApplication)
