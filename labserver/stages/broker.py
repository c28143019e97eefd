"""Every replica delivers its rooms' messages in one order.

Without this, a second process is a second world: its members hear nothing of what is
said in the first.

How: Redis decides. One script numbers a message, keeps it and publishes it, and every
replica, the publisher's too, delivers only what comes back: a local short cut would
reorder. A replica listens to the rooms of its own members and to no others. Where the
numbers show a hole, it reads what it missed, and tells its members of what is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

from labserver.contract.messages import Event, event, gap
from labserver.errors import BrokerDown, TooManyRooms
from labserver.redis import presence as redis_presence
from labserver.redis.commands import TIMEOUT, ended
from labserver.redis.deadlines import Patience
from labserver.redis.history import Histories
from labserver.redis.memory import Memory
from labserver.redis.messages import (
    BEGAN,
    KEEPS,
    NUMBERING_TTL,
    PUBLISH,
    REFUSED,
    Outgoing,
    fail,
    keys_of,
    ms,
    pay,
    portions,
    said,
    tails,
)
from labserver.redis.nodes import call, nodes
from labserver.server.hub import Hub
from labserver.server.limits import TokenBucket
from labserver.server.metrics import Metrics
from labserver.server.parts import BEGINS, History, Parts, Position
from labserver.server.presence import Roster
from labserver.server.tasks import keep
from labserver.settings import Settings

LINGER = 1.0  # seconds that an empty room is listened to, since people come back


class Feed:
    """What this replica has delivered of a room; no epoch before the first word."""

    __slots__ = ("behind", "epoch", "moved", "seq")

    def __init__(self) -> None:
        self.epoch = ""
        self.seq = 0
        self.behind = False  # whether the link broke before that
        self.moved: asyncio.Future[None] | None = None  # while somebody waits

    def move(self, epoch: str, seq: int) -> None:
        self.epoch, self.seq = epoch, seq
        if self.moved is not None:
            self.moved.set_result(None)
            self.moved = None

    async def reach(self, epoch: str, seq: int) -> None:
        """Wait until ``seq`` was delivered, or the numbering began anew."""
        while self.epoch == epoch and self.seq < seq:
            self.moved = self.moved or asyncio.get_running_loop().create_future()
            await asyncio.shield(self.moved)


class RedisBroker:
    """Rooms over Redis pub/sub; the history is a capped stream beside it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = secrets.token_hex(6)  # of this replica, among all
        self.feeds: dict[str, Feed] = {}
        self.outbound: dict[str, list[Outgoing]] = {}

    @property
    def deaf(self) -> bool:
        return self.redis.deaf

    async def start(self, hub: Hub, history: History, metrics: Metrics) -> None:
        self.hub, self.history, self.metrics = hub, history, metrics
        failures = metrics.failures
        async with AsyncExitStack() as begun:  # undone if a later step fails
            self.redis = nodes(self.url, failures, self.heard, self.catch_up)
            begun.push_async_callback(self.redis.stop)
            await self.redis.start()
            self.histories = Histories(self.redis, history, self._settle)
            begun.push_async_callback(self.histories.stop)
            self.memory = Memory(self.redis, history, failures)
            begun.push_async_callback(self.memory.stop)
            task = keep("tending", self._tend, failures)
            begun.push_async_callback(ended, task)
            self.begun = begun.pop_all()

    async def stop(self) -> None:
        await self.begun.aclose()

    # Publishing

    def publish(
        self,
        room: str,
        tail: bytes,
        key: str | None = None,
        user: str = "",
        begins: TokenBucket | None = None,
    ) -> asyncio.Future[int]:
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[int] = loop.create_future()
        if not self.outbound:
            loop.call_soon(self._send)
        self.outbound.setdefault(room, []).append(
            Outgoing(tail, user, key, begins, stored)
        )
        return stored

    def _send(self) -> None:
        """Hand over what was published during one tick, one call a room if it fits."""
        outbound, self.outbound = self.outbound, {}
        asked, key_ttl = time.monotonic(), self.memory.key_ttl
        for room, published in outbound.items():
            for messages in portions(published):
                keys, args = said(room, self.history, messages, key_ttl)
                answer = call(self.redis, room, PUBLISH, keys, args)
                answer.add_done_callback(partial(self._stored, room, messages, asked))

    def _stored(
        self,
        room: str,
        messages: list[Outgoing],
        asked: float,
        answer: asyncio.Future[list[int]],
    ) -> None:
        if (problem := answer.exception()) is not None:
            self.memory.refused()
            return fail(messages, problem)
        became, new, *seqs = answer.result()
        if became == REFUSED:
            return fail(messages, TooManyRooms(BEGINS))
        if became == BEGAN:
            pay(messages)
        elif became == KEEPS:
            self.memory.note(room, messages)
        self.metrics.published += new
        self.metrics.broker_latency.observe(time.monotonic() - asked)
        for each, seq in zip(messages, seqs, strict=True):
            each.stored.set_result(seq)

    # Joining

    async def subscribe(self, room: str) -> None:
        self.feeds.setdefault(room, Feed())
        await self.redis.of(room).link.subscribe(room)

    def unsubscribe(self, room: str) -> None:
        """Nothing yet: people come back, and :meth:`_tend` looks again later."""

    async def read(self, room: str, after: int | None) -> Position:
        return await self.histories.read(room, after)

    async def _settle(self, room: str, position: Position) -> bool:
        """Wait until the feed is where a room was found; False if it came elsewhere.

        Who joins now must not get again what the others are still waiting for.
        """
        feed = self.feeds.get(room)
        if feed is None:
            return True
        if not feed.epoch:
            feed.move(position.epoch, position.seq)
        if feed.behind or feed.epoch != position.epoch:
            await self.catch_up(room)
            feed.behind = False
        try:
            async with Patience(TIMEOUT):
                await feed.reach(position.epoch, position.seq)
        except TimeoutError:
            raise BrokerDown("Redis delivers nothing") from None
        return feed.epoch == position.epoch

    async def here(
        self, room: str, mine: Roster, ttl: float, known: Roster | None
    ) -> Roster:
        keys = [keys_of(room)[0], keys_of(room)[0] + ":presence"]
        args = redis_presence.said(self.name, mine, ms(ttl), known)
        answer = await call(self.redis, room, redis_presence.PRESENCE, keys, args)
        return redis_presence.heard(answer, known)

    # Delivering

    async def heard(self, room: str, data: bytes) -> None:
        """Deliver what one publish carried, after filling any hole before it."""
        if b" " not in data:  # no message, but a replica where people came or went
            if data.decode() != self.name:
                self.hub.stirred(room)
            return
        feed = self.feeds.get(room)
        if feed is None:
            return
        name, number, rest = data.split(b" ", 2)
        epoch, first = name.decode(), int(number)
        if not feed.epoch and not feed.behind:
            feed.move(epoch, first - 1)
        if epoch != feed.epoch or first > feed.seq + 1:
            await self.catch_up(room, first - 1)
        if epoch != feed.epoch:
            return  # of a numbering that is over, or left to the first read
        for seq, tail in enumerate(tails(rest), start=first):
            if seq > feed.seq:
                self._deliver(room, feed, event(room, seq, tail))

    async def catch_up(self, room: str, until: int | None = None) -> None:
        """Deliver what the link did not bring, or say that it is gone.

        Args:
            room: Name of the room.
            until: The newest seq that will not come by itself; None if unknown.

        """
        feed = self.feeds.get(room)
        if feed is None:
            return
        if not feed.epoch:
            feed.behind = True
            return
        while True:
            position = await self.histories.page(room, feed.seq)
            if position.epoch != feed.epoch:
                goes_on = position.continues(feed.epoch, feed.seq)
                self.hub.renumber(room, position.epoch, position.seq, goes_on)
                feed.move(position.epoch, feed.seq if goes_on else position.seq)
            for news in position.kept:
                if news.first > feed.seq + 1:
                    self._lost(room, feed, news.first - 1)
                if news.first > feed.seq:
                    self._deliver(room, feed, news)
            last = position.seq if until is None else min(until, position.seq)
            if (gone := min(last, position.reached)) > feed.seq:
                self._lost(room, feed, gone)
            if feed.seq >= last:
                return

    def _deliver(self, room: str, feed: Feed, news: Event) -> None:
        self.hub.deliver(room, news)
        feed.move(feed.epoch, news.last)

    def _lost(self, room: str, feed: Feed, last: int) -> None:
        self._deliver(room, feed, gap(room, feed.seq + 1, last, "broker"))

    async def _tend(self) -> None:
        """Let go of rooms that stay empty; keep the numbering of quiet ones alive."""
        idle: set[str] = set()
        left: set[str] = set()  # in the turn before: by now Redis knows
        turns = 0
        while True:
            await asyncio.sleep(LINGER)
            turns += 1
            await self.histories.release(left - self.feeds.keys())
            left = set()
            empty = self.feeds.keys() - self.hub.rooms.keys()
            for room in empty & idle:
                if room not in self.hub.rooms:  # nobody came while we waited
                    with contextlib.suppress(BrokerDown):
                        link = self.redis.of(room).link
                        del self.feeds[room]
                        await link.unsubscribe(room)
                        left.add(room)
            if turns * LINGER % (NUMBERING_TTL / 4) == 0:
                for room in list(self.feeds):
                    with contextlib.suppress(BrokerDown):
                        await self.histories.page(room, None)
            idle = empty


def extend(parts: Parts, settings: Settings) -> Parts:
    """Replace the broker."""
    return replace(parts, broker=RedisBroker(settings.redis))
