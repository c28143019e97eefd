"""Every well-formed message comes back.

Without this, there is no conversation: in a server that does not guard its parser, one
broken message ends the connection, or the process.

How: the server says ``hello``, then returns each JSON value as the payload of an
``echo``, as it was written: ``2.50`` does not become ``2.5``. Text that is not JSON is
answered with an ``error``, and the connection stays open.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from labserver.contract.decoding import decode, well_formed
from labserver.contract.messages import ClientMessage, Echo, Refresh, Refreshed, encode
from labserver.errors import BadMessage
from labserver.server.member import Member
from labserver.server.parts import Lab, Parts
from labserver.settings import Settings


class EchoApplication:
    """Answers every JSON value with an ``echo`` of it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    async def receive(self, member: Member, text: str) -> None:
        answer: msgspec.Struct = Echo(well_formed(text))
        # Tokens belong to the admission. Where anyone is admitted there are no tokens,
        # and a refresh is a value like any other.
        if '"refresh"' in text and (message := _refresh(text)) is not None:
            refreshed = self.lab.admission.refresh(member, message.token)
            if refreshed is not None:
                answer = Refreshed(refreshed.expires, message.ref)
        member.reply(answer)

    async def handle(self, member: Member, message: ClientMessage) -> None:
        await self.receive(member, encode(message).decode())

    def closed(self, member: Member) -> None:
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
