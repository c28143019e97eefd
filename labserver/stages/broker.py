"""Every replica delivers its rooms' messages in one order.

Without this, a second process is a world of its own: its members get no messages that
are published in the first.

How: Redis decides. One script numbers a message, keeps it and publishes it. Every
replica, also the publisher's, only delivers messages that come back from Redis: a local
short cut would change their order. A replica subscribes to the rooms of its own members
only. Where the numbers show a hole, it reads the missing messages, and tells its
members which of them are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from labserver.contract.messages import event
from labserver.errors import BrokerDown
from labserver.redis import presence
from labserver.redis.commands import TIMEOUT, ended
from labserver.redis.deadlines import Patience
from labserver.redis.feed import Feed, caught_up
from labserver.redis.history import LITTLE, Histories
from labserver.redis.memory import Memory
from labserver.redis.messages import NUMBERING_TTL, Outgoing, tails
from labserver.redis.nodes import nodes
from labserver.redis.publishing import Publisher
from labserver.server.hub import Hub
from labserver.server.limits import TokenBucket
from labserver.server.metrics import Metrics
from labserver.server.parts import History, Parts, Position
from labserver.server.presence import Roster
from labserver.server.tasks import keep
from labserver.settings import Settings

LINGER = 1.0  # seconds that a replica still listens to an empty room


class RedisBroker:
    """Rooms over Redis pub/sub, with a capped stream for each room's history.

    Args:
        url: URL of a Redis or of a Redis cluster.
        confirm: Replicas of Redis that must have a message before it is acknowledged.

    """

    def __init__(self, url: str, confirm: int = 0) -> None:
        self.url, self.confirm = url, confirm
        self.name = secrets.token_hex(6)  # this replica's name, for presence
        self.feeds: dict[str, Feed] = {}

    @property
    def deaf(self) -> bool:
        return self.redis.deaf

    async def start(self, hub: Hub, history: History, metrics: Metrics) -> None:
        self.hub, failures = hub, metrics.failures
        async with AsyncExitStack() as begun:  # undone if a later step fails
            handlers = self.heard, self.again
            self.redis = nodes(self.url, failures, *handlers, self.confirm)
            begun.push_async_callback(self.redis.stop)
            await self.redis.start()
            self.histories = Histories(self.redis, history, self._settle)
            begun.push_async_callback(self.histories.stop)
            self.memory = Memory(self.redis, history, failures)
            begun.push_async_callback(self.memory.stop)
            self.publisher = Publisher(self.histories, self.memory, metrics)
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
        stored: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.publisher.publish(room, Outgoing(tail, user, key, begins, stored))
        return stored

    # Joining

    async def subscribe(self, room: str) -> None:
        self.feeds.setdefault(room, Feed(room, self.hub, self.histories.seen))
        await self.redis.of(room).link.subscribe(room)

    def unsubscribe(self, room: str) -> None:
        """Do nothing yet: clients come back, and :meth:`_tend` looks later."""

    async def read(self, room: str, after: int | None) -> Position:
        return await self.histories.read(room, after)

    async def _settle(self, room: str, position: Position) -> bool:
        """Wait until a room's feed has reached a position that was read.

        Without this, a new member would get messages twice: those that the other
        members still wait for. Returns False if the room has a new epoch by then.

        Raises:
            BrokerDown: The messages do not arrive in time.

        """
        feed = self.feeds.get(room)
        if feed is None:
            return True
        feed.begin(position.epoch, position.seq)
        if feed.behind or feed.epoch != position.epoch:
            await self.catch_up(room)
        try:
            async with Patience(TIMEOUT):
                await feed.reach(position.epoch, position.seq)
        except TimeoutError:
            raise BrokerDown("Redis delivers nothing") from None
        return feed.epoch == position.epoch

    # Delivering

    async def heard(self, room: str, data: bytes) -> None:
        """Deliver the messages of one publish, after filling any hole before them."""
        if b" " not in data:  # the name of a replica on which people came or left
            if data.decode() != self.name:
                self.hub.stirred(room)
            return
        if (feed := self.feeds.get(room)) is None:
            return
        name, number, rest = data.split(b" ", 2)
        epoch, first = name.decode(), int(number)
        if not feed.behind:
            feed.begin(epoch, first - 1)
        if epoch != feed.epoch or first > feed.seq + 1:
            await self.catch_up(room, first - 1)
        if epoch != feed.epoch:
            return  # an old epoch, or none yet: the first read delivers these
        for seq, tail in enumerate(tails(rest), start=first):
            feed.deliver(event(room, seq, tail))

    async def catch_up(self, room: str, until: int | None = None) -> None:
        """Deliver the messages that the link missed, and gaps for those that are gone.

        Args:
            room: Name of the room.
            until: The newest seq that the link will not bring; None if unknown.

        Raises:
            BrokerDown: Redis does not answer.

        """
        if (feed := self.feeds.get(room)) is None:
            return
        feed.behind, size = True, LITTLE
        while feed.epoch:  # otherwise the first read of the room delivers them
            page = await self.histories.page(room, feed.seq, size=size)
            size = 0
            if page.epoch != feed.epoch and not feed.adopt(page):
                continue  # it was read from a seq of another epoch
            if feed.replay(page, until):
                feed.behind = False
                return

    async def again(self, rooms: Sequence[str]) -> None:
        """Catch up with rooms after a break of the link: in one call, if they fit."""
        for room in await caught_up(rooms, self.feeds, self.histories):
            await self.catch_up(room)

    async def here(
        self, room: str, mine: Roster, ttl: float, known: Roster | None
    ) -> Roster:
        return await presence.here(self.redis, self.name, room, mine, ttl, known)

    async def _tend(self) -> None:
        """Unsubscribe rooms that stay empty; keep the numberings of quiet rooms."""
        idle: set[str] = set()
        left: set[str] = set()  # rooms unsubscribed one turn ago: Redis knows by now
        for turn in itertools.count(1):
            await asyncio.sleep(LINGER)
            await self.histories.seen.look()
            await self.histories.release(sorted(left - self.feeds.keys()))
            left = set()
            empty = self.feeds.keys() - self.hub.rooms.keys()
            for room in sorted(empty & idle):
                if room not in self.hub.rooms:  # a member may come at each await
                    del self.feeds[room]
                    left.add(room)
                    for node in self.redis.everywhere:  # it may move to another one
                        if room not in self.feeds:  # a member has not come back
                            await node.link.unsubscribe(room)
            if turn * LINGER % (NUMBERING_TTL / 4) == 0:
                for room in list(self.feeds):
                    with contextlib.suppress(BrokerDown):
                        await self.histories.page(room, None)
            idle = empty


def extend(parts: Parts, settings: Settings) -> Parts:
    """Replace the broker."""
    return replace(parts, broker=RedisBroker(settings.redis, settings.confirm_replicas))
