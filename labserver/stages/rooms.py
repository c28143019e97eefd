"""A message reaches everyone in its room, once.

Without this, a server can only answer. Two indexes (a room's members, a connection's
rooms) make it cheap to speak to a group. Both must be cleaned when a connection ends:
otherwise rooms fill with dead members.

How: clients join, leave and publish with messages. The broker numbers published
messages and gives them to the hub, which writes each one once to each member. There is
no short cut, not even for the publisher: the broker's order is the only one.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial

from msgspec import UNSET, UnsetType

from labserver.contract.decoding import decode
from labserver.contract.messages import (
    Ack,
    ClientMessage,
    Echo,
    Error,
    Join,
    Leave,
    Left,
    Ping,
    Pong,
    Publish,
    Ref,
    Refresh,
    Refreshed,
    body,
)
from labserver.errors import BadMessage, BrokerDown, TooManyRooms
from labserver.server.limits import BucketPerName
from labserver.server.member import Member
from labserver.server.parts import Lab, Parts
from labserver.server.proxies import neighbourhood
from labserver.server.returning import answer_to
from labserver.server.sizes import BytesPerName
from labserver.settings import Settings


class RoomsApplication:
    """Lets clients join rooms, leave them, and publish to them.

    Args:
        lab: What the server gives to its application.
        rooms_limit: Rooms that a connection may be in; 0 for no limit.

    """

    # Publishes of one connection that may wait for the broker. After that the server
    # stops reading, and TCP slows the client down.
    in_flight_limit = 64

    def __init__(self, lab: Lab, rooms_limit: int) -> None:
        self.lab, self.rooms_limit = lab, rooms_limit
        # Per user: empty rooms that its messages may create. As many as a connection
        # may be in, and in a minute as many again.
        self.begins = BucketPerName(rooms_limit / 60.0, rooms_limit)
        self.sizes = BytesPerName()

    async def receive(self, member: Member, text: str) -> None:
        await self.handle(member, decode(text))

    async def handle(self, member: Member, message: ClientMessage) -> None:
        match message:
            case Publish():
                await self.publish(member, message)
            case Join():
                await self.join(member, message)
            case Leave():
                self.leave(member, message.room)
                member.reply(Left(message.room, message.ref))
            case Ping():
                member.reply(Pong(message.ref))
            case Echo():
                member.reply(message)
            case Refresh():
                self.refresh(member, message)

    async def publish(self, member: Member, message: Publish) -> None:
        self.check_claim(member, message.room, message.ref)
        who, room = member.identity, message.room
        tail = body(who.user, message.payload)
        payer = who.at(neighbourhood(member.address))
        await self.sizes.take(payer, len(tail))
        empty = room not in self.lab.hub.rooms  # else somebody is in it: no limit
        begins = self.begins.of(payer, time.monotonic()) if empty else None
        stored = self.lab.broker.publish(room, tail, message.key, who.user, begins)
        if stored.done():
            self.published(member, message, stored)
            return
        # The broker needs a round trip: the client's next message need not wait for it.
        member.in_flight += 1
        stored.add_done_callback(partial(self.arrived, member, message))
        if member.in_flight >= self.in_flight_limit:
            await asyncio.wait([stored])

    def arrived(
        self, member: Member, message: Publish, stored: asyncio.Future[int]
    ) -> None:
        member.in_flight -= 1
        self.published(member, message, stored)

    def published(
        self, member: Member, message: Publish, stored: asyncio.Future[int]
    ) -> None:
        """Tell a publisher what became of its message."""
        if (problem := stored.exception()) is not None:
            many = isinstance(problem, TooManyRooms)
            code = "rate_limited" if many else "broker_down"
            member.reply(Error(code, str(problem), message.ref))
        elif message.ref is not UNSET:
            member.reply(Ack(message.room, stored.result(), message.ref))

    async def join(self, member: Member, message: Join) -> None:
        name = message.room
        if member.gone:
            return  # it asked before its goodbye; a queue of joins takes long to serve
        self.check_claim(member, name, message.ref)
        here = name in member.rooms
        if self.rooms_limit and len(member.rooms) >= self.rooms_limit and not here:
            detail = f"a connection may be in {self.rooms_limit} rooms"
            raise BadMessage("room_limit", detail, message.ref)
        lab = self.lab
        # The entry keeps new messages while the broker reads the missed ones, so that
        # none is lost between the two.
        with lab.hub.joining(member, name) as entry:
            try:
                await lab.broker.subscribe(name)
                joined, missed = await answer_to(message, lab)
            except BrokerDown as exc:
                raise BadMessage("broker_down", str(exc), message.ref) from None
            if member.gone:  # it left meanwhile: nobody would remove it from the room
                return
            lab.hub.add(entry, joined, missed)
        if message.after is not None and self.rooms_limit and not here:
            member.returned()
        if message.presence:
            lab.attendance.enter(member, name)
        else:
            lab.attendance.leave(member, name)
        if message.after is not None:
            lab.metrics.recovered += joined.recovered
            lab.metrics.unrecovered += not joined.recovered

    def refresh(self, member: Member, message: Refresh) -> None:
        answer = self.lab.admission.refresh(member, message.token)
        if member.ending is not None:
            return  # the token was bad, and that was the answer
        if answer is None:
            detail = "there are no tokens here to refresh"
            raise BadMessage("forbidden", detail, message.ref)
        member.reply(Refreshed(answer.expires, message.ref))
        for name in sorted(member.rooms):
            if not member.identity.may_enter(name):
                self.leave(member, name)
                member.reply(Left(name))

    def closed(self, member: Member) -> None:
        for name in sorted(member.rooms):
            self.leave(member, name)

    def leave(self, member: Member, room: str) -> None:
        self.lab.hub.remove(member, room)
        self.lab.attendance.leave(member, room)

    def check_claim(self, member: Member, room: str, ref: Ref | UnsetType) -> None:
        if not member.identity.may_enter(room):
            detail = "the token's rooms do not cover this room"
            raise BadMessage("forbidden", detail, ref)


def extend(parts: Parts, settings: Settings) -> Parts:
    """Replace the application."""
    limit = settings.rooms_limit
    return replace(parts, application=lambda lab: RoomsApplication(lab, limit))
