"""Mistakes of stage broker: wrong order, duplicates, lost subscriptions."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from labserver.contract.messages import event
from labserver.errors import BrokerDown
from labserver.mistakes.mistake import Extend, Mistake
from labserver.redis.commands import ended
from labserver.redis.feed import Feed
from labserver.redis.link import Link, channel_of
from labserver.redis.messages import tails
from labserver.redis.nodes import OneNode
from labserver.server.hub import Hub
from labserver.server.metrics import Metrics
from labserver.server.parts import History, Parts
from labserver.settings import Settings
from labserver.stages.broker import RedisBroker


class DeliverLocally(RedisBroker):
    """Deliver to local members at once, and ignore the message when it comes back."""

    def __init__(self, url: str, confirm: int = 0) -> None:
        super().__init__(url, confirm)
        self.own: Counter[tuple[str, bytes]] = Counter()

    def publish(self, room: str, tail: bytes, *about: Any) -> asyncio.Future[int]:
        self.own[room, tail] += 1
        self.deliver(room, tail)
        return super().publish(room, tail, *about)

    async def heard(self, room: str, data: bytes) -> None:
        if b" " not in data:
            return await super().heard(room, data)
        for tail in tails(data.split(b" ", 2)[2]):
            if self.own[room, tail]:
                self.own[room, tail] -= 1
            else:
                self.deliver(room, tail)

    def deliver(self, room: str, tail: bytes) -> None:
        feed = self.feeds.get(room)
        if feed is not None:
            feed.deliver(event(room, feed.seq + 1, tail))


class OwnMessageTwice(RedisBroker):
    """Deliver to local members, publish, and deliver again from the channel."""

    def publish(self, room: str, tail: bytes, *about: Any) -> asyncio.Future[int]:
        stored = super().publish(room, tail, *about)
        stored.add_done_callback(partial(self.deliver, room, tail))
        return stored

    def deliver(self, room: str, tail: bytes, stored: asyncio.Future[int]) -> None:
        if stored.exception() is None:
            self.hub.deliver(room, event(room, stored.result(), tail))


class SubscribeToEverything(RedisBroker):
    """Subscribe to all rooms by a pattern: one subscription, and no book-keeping."""

    async def start(self, hub: Hub, history: History, metrics: Metrics) -> None:
        await super().start(hub, history, metrics)
        self.subscribed = asyncio.Event()
        self.listening = asyncio.create_task(self.listen())
        await self.subscribed.wait()

    async def stop(self) -> None:
        await ended(self.listening)
        await super().stop()

    async def subscribe(self, room: str) -> None:
        self.feeds.setdefault(room, Feed(room, self.hub, self.histories.seen))

    async def listen(self) -> None:
        while True:
            with contextlib.suppress(RedisError, OSError, BrokerDown):
                async with Redis.from_url(self.url) as redis, redis.pubsub() as pubsub:
                    await pubsub.psubscribe(channel_of("*"))
                    await pubsub.get_message(timeout=None)  # it is confirmed
                    self.subscribed.set()
                    for room in list(self.feeds):
                        await self.catch_up(room)
                    async for said in pubsub.listen():
                        room = said["channel"].decode()[5:-1]  # without lab:{}
                        await self.heard(room, said["data"])
            await asyncio.sleep(0.1)


class UnsubscribeRacesJoin(RedisBroker):
    """Unsubscribe a moment after the last member left, without a second check."""

    linger = 0.05  # seconds

    def unsubscribe(self, room: str) -> None:
        if room not in self.hub.rooms:
            loop = asyncio.get_running_loop()
            loop.call_later(self.linger, self.let_go, room)

    def let_go(self, room: str) -> None:
        if self.feeds.pop(room, None) is not None:
            self.leaving = asyncio.create_task(
                self.redis.of(room).link.unsubscribe(room)
            )


class ForgetfulLink(Link):
    """Reconnect, but do not subscribe again."""

    async def _follow(self) -> None:
        if self.generation:
            self.rooms.clear()
        await super()._follow()


class NoResubscribe(RedisBroker):
    """Assume that a link that is connected is also subscribed."""

    async def start(self, hub: Hub, history: History, metrics: Metrics) -> None:
        await super().start(hub, history, metrics)
        assert isinstance(self.redis, OneNode)
        node = self.redis.node
        await node.link.stop()
        link = ForgetfulLink(
            *(node.connections, node.commands, metrics.failures),
            *(self.heard, self.again),
        )
        self.redis.node = replace(node, link=link)


def _broker(made: Callable[[str, int], RedisBroker]) -> Extend:
    def extend(parts: Parts, settings: Settings) -> Parts:
        return replace(parts, broker=made(settings.redis, settings.confirm_replicas))

    return extend


MISTAKES = (
    Mistake(
        "deliver-locally",
        "broker",
        "Each replica delivers its own messages first: two replicas have two orders.",
        "python-socketio and Socket.IO adapters: deliver, publish, skip the own id",
        "replicas_agree_on_one_order",
        _broker(DeliverLocally),
    ),
    Mistake(
        "own-message-twice",
        "broker",
        "The members of the publisher's replica get each message twice.",
        "many a first version of a Redis adapter",
        "replicas_agree_on_one_order",
        _broker(OwnMessageTwice),
    ),
    Mistake(
        "subscribe-to-everything",
        "broker",
        "Every replica gets the messages of every room, and discards most of them.",
        "open-webui#28173: 15 of 16 copies, 31 % of CPU",
        "replica_listens_to_its_own_rooms_only",
        _broker(SubscribeToEverything),
    ),
    Mistake(
        "unsubscribe-races-join",
        "broker",
        "The last member leaves, another joins, and the late unsubscribe wins: the "
        "room has members, but they get no messages.",
        "Centrifugo waits a second and checks again, to avoid this",
        "who_returns_at_once_hears",
        _broker(UnsubscribeRacesJoin),
    ),
    Mistake(
        "no-resubscribe",
        "broker",
        "After a reconnect to Redis the server looks healthy, but gets no messages.",
        "centrifugo#1189",
        "broken_link_loses_nothing",
        _broker(NoResubscribe),
    ),
)
