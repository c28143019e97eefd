"""The subscribing link to Redis: what is listened to, and whether anything is heard.

A link that is connected and silent is the failure that nobody notices
(centrifugo#1189): a probe is published once a second on the way that messages take, and
a link on which it does not come back is given up and made anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from labserver.errors import BrokerDown
from labserver.redis_commands import TIMEOUT, Commands, ended

log = logging.getLogger("labserver")

PROBE_INTERVAL = 1.0  # seconds
SILENCE = 3.0  # seconds without a word after which a link counts as dead
PREFIX = "lab:"
PROBE = "return redis.call('PUBLISH', ARGV[1], '')"


class Link:
    """A connection that listens to channels, made anew whenever it breaks.

    Args:
        connections: Where a connection comes from.
        commands: The way out, which the probe takes too.
        heard: Called with a channel and what was published on it, in order.
        again: Called with a channel that is listened to again after a break.

    """

    def __init__(
        self,
        connections: ConnectionPool,
        commands: Commands,
        heard: Callable[[str, bytes], Awaitable[None]],
        again: Callable[[str], Awaitable[None]],
    ) -> None:
        self.connections = connections
        self.commands = commands
        self.heard = heard
        self.again = again
        # Each channel with a future: done when Redis confirmed the first time.
        self.channels: dict[str, asyncio.Future[None]] = {}
        self.asked: deque[asyncio.Future[None] | None] = deque()  # not yet confirmed
        self.connection: AbstractConnection | None = None
        self.generation = 0  # counts connections
        self.mourned = -1  # the latest whose end was logged
        self.probe = "probe:" + secrets.token_hex(6)
        self.probed = 0.0  # when the probe last came through
        self.tasks = [
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._probe()),
        ]

    @property
    def deaf(self) -> bool:
        return self.connection is None or time.monotonic() - self.probed > SILENCE

    async def stop(self) -> None:
        for task in self.tasks:
            await ended(task)

    async def subscribe(self, channel: str) -> None:
        """Return when Redis has confirmed that the channel is listened to."""
        confirmed = self.channels.get(channel)
        if confirmed is None:
            confirmed = asyncio.get_running_loop().create_future()
            self.channels[channel] = confirmed
            await self._ask("SUBSCRIBE", channel, confirmed)
        try:
            async with asyncio.timeout(TIMEOUT):
                await asyncio.shield(confirmed)
        except TimeoutError:
            raise BrokerDown("Redis does not confirm a subscription") from None

    async def unsubscribe(self, channel: str) -> None:
        if self.channels.pop(channel, None) is not None:
            await self._ask("UNSUBSCRIBE", channel, None)

    async def _ask(
        self, command: str, channel: str, confirmed: asyncio.Future[None] | None
    ) -> None:
        if self.connection is None:
            return  # the next connection subscribes to everything
        self.asked.append(confirmed)
        try:
            await self.connection.send_command(command, PREFIX + channel)
        except (RedisError, OSError) as exc:
            raise BrokerDown(f"Redis is away ({type(exc).__name__})") from None

    async def _listen(self) -> None:
        while True:
            try:
                await self._follow()
            except (RedisError, OSError, BrokerDown, TimeoutError) as exc:
                if self.generation != self.mourned:  # once, not at every attempt
                    log.warning("the link to Redis broke: %s", type(exc).__name__)
                    self.mourned = self.generation
            except Exception:
                log.exception("what Redis published could not be delivered")
            await asyncio.sleep(0.1 + secrets.randbelow(400) / 1000)

    async def _follow(self) -> None:
        """Connect, subscribe to everything, and pass on what comes, until it breaks."""
        connection: AbstractConnection = self.connections.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            self.asked.clear()
            self.connection = connection
            self.generation += 1
            known = list(self.channels.items())
            await self._ask("SUBSCRIBE", self.probe, None)
            for channel, confirmed in known:
                await self._ask("SUBSCRIBE", channel, confirmed)
            while True:
                said = await connection.read_response(
                    timeout=SILENCE, disconnect_on_error=False
                )
                if said is None:
                    return  # silence: not even the probe came
                kind, name, data = said
                channel = name.decode().removeprefix(PREFIX)
                if kind != b"message":
                    await self._confirmed(channel)
                elif channel == self.probe:
                    self.probed = time.monotonic()
                else:
                    await self.heard(channel, data)
        finally:
            self.connection = None
            await connection.disconnect(nowait=True)

    async def _confirmed(self, channel: str) -> None:
        # Redis confirms in the order in which it was asked; an answer for a channel
        # that was left and entered again in a hurry belongs to the older question.
        confirmed = self.asked.popleft()
        if confirmed is None:
            return
        if not confirmed.done():
            confirmed.set_result(None)
        else:
            await self.again(channel)

    async def _probe(self) -> None:
        while True:
            with contextlib.suppress(BrokerDown):
                await self.commands.call(PROBE, (), (PREFIX + self.probe,))
            await asyncio.sleep(PROBE_INTERVAL)
