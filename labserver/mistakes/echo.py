"""Mistakes of stage echo: trust the parser, or the sender."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

from websockets.http11 import Request

from labserver.contract.messages import ClientMessage, Refreshed
from labserver.contract.tokens import Identity
from labserver.mistakes.mistake import Mistake
from labserver.server.connection import LabConnection
from labserver.server.member import Member
from labserver.server.parts import Admission, Application, Lab, Parts
from labserver.settings import Settings


class UnguardedParse:
    """Parse the message, without handling texts that are not JSON."""

    def __init__(self, application: Application) -> None:
        self.application = application

    async def receive(self, member: Member, text: str) -> None:
        json.loads(text)
        await self.application.receive(member, text)

    async def handle(self, member: Member, message: ClientMessage) -> None:
        await self.application.handle(member, message)

    def closed(self, member: Member) -> None:
        self.application.closed(member)


class DoubleNumbers(UnguardedParse):
    """Decode and encode the payload like JavaScript, with every number a double."""

    async def receive(self, member: Member, text: str) -> None:
        with contextlib.suppress(ValueError):  # the application reports it
            text = json.dumps(json.loads(text, parse_int=float))
        await self.application.receive(member, text)


class NoSizeLimit:
    """Accept messages of any size. Admission is the first part to see a connection."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.places = admission.places

    def admit(self, member: Member, request: Request) -> Identity:
        if isinstance(member, LabConnection):
            member.protocol.max_message_size = None
        return self.admission.admit(member, request)

    def opened(self, member: Member) -> None:
        self.admission.opened(member)

    def released(self, member: Member) -> None:
        self.admission.released(member)

    def refresh(self, member: Member, token: str) -> Refreshed | None:
        return self.admission.refresh(member, token)


def unguarded_parse(parts: Parts, settings: Settings) -> Parts:
    def application(lab: Lab) -> Application:
        return UnguardedParse(parts.application(lab))

    return replace(parts, application=application)


def double_numbers(parts: Parts, settings: Settings) -> Parts:
    def application(lab: Lab) -> Application:
        return DoubleNumbers(parts.application(lab))

    return replace(parts, application=application)


def no_size_limit(parts: Parts, settings: Settings) -> Parts:
    return replace(parts, admission=NoSizeLimit(parts.admission))


MISTAKES = (
    Mistake(
        "unguarded-parse",
        "echo",
        "One message that is not JSON ends the connection, and in Node the process.",
        "a tutorial on Node's ws: JSON.parse in the message handler, without try",
        "what_is_wrong_is_answered",
        unguarded_parse,
    ),
    Mistake(
        "double-numbers",
        "echo",
        "A payload that is decoded and encoded comes back with different numbers.",
        "RFC 8259 section 6: beyond 2**53 readers disagree",
        "every_value_comes_back",
        double_numbers,
    ),
    Mistake(
        "no-size-limit",
        "echo",
        "One client sends a message of a gigabyte, and the server accepts it.",
        "websockets: max_size=None, the first answer to 'message too big'",
        "huge_message_is_refused",
        no_size_limit,
    ),
)
