"""The link to Redis that subscribes to rooms, and notices when it hears nothing.

A link that is connected and silent is a failure that nobody notices (centrifugo#1189).
So a probe is published once a second, and takes the same way as messages. When the
probe does not come back, the link is closed and connected again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import InvalidResponse, RedisError
from redis.exceptions import TimeoutError as SocketTimeout

from labserver.errors import BrokerDown
from labserver.redis.commands import CLOSED, TIMEOUT, Commands, address, ended, packed
from labserver.redis.deadlines import Patience
from labserver.server.tasks import Failures, keep

log = logging.getLogger("labserver")

PROBE_INTERVAL = 1.0  # seconds
TOGETHER = 32  # rooms that are caught up with in one call: in 0.5 ms of Redis's time
SILENCE = 3.0  # seconds without any message after which a link counts as dead
AWAY = (NotConnected, SocketTimeout, TimeoutError)  # while nothing answers
PROBE = "return redis.call(ARGV[2], KEYS[1], '')"


def channel_of(room: str) -> str:
    """Return the channel of a room; in a cluster the braces name its slot."""
    return f"lab:{{{room}}}"


class Link:
    """A connection that subscribes to rooms and reconnects whenever it breaks.

    Args:
        connections: Makes the connection.
        commands: Publishes the probe, over the connection that publishes messages.
        failures: Counts failures of its tasks.
        heard: Called with a room and the data published in it, in order.
        again: Called with rooms when they are subscribed again after a break. Many
            rooms are caught up with at the same time.
        subscribe: ``SUBSCRIBE``, or ``SSUBSCRIBE`` in a cluster.
        probe: Room of the probe; a random one unless given.
        broke: Called when the link broke.

    """

    def __init__(
        self,
        connections: ConnectionPool,
        commands: Commands,
        failures: Failures,
        heard: Callable[[str, bytes], Awaitable[None]],
        again: Callable[[Sequence[str]], Coroutine[Any, Any, None]],
        subscribe: str = "SUBSCRIBE",
        probe: str = "",
        broke: Callable[[], None] = lambda: None,
    ) -> None:
        self.connections = connections
        self.commands = commands
        self.heard = heard
        self.again = again
        self.entry = subscribe
        self.exit = subscribe.replace("SUB", "UNSUB")
        # A command of a cluster names rooms of one slot.
        self.together = TOGETHER if subscribe == "SUBSCRIBE" else 1
        self.broke = broke
        # By room: a future that is done once Redis has confirmed the subscription.
        self.rooms: dict[str, asyncio.Future[None]] = {}
        # Commands that Redis has not confirmed yet: command, room, future.
        self.asked: deque[tuple[str, str, asyncio.Future[None] | None]] = deque()
        self.connection: AbstractConnection | None = None
        # By room: what catches up with it since the last connection.
        self.catching: dict[str, asyncio.Task[None]] = {}
        self.batch: list[str] = []  # rooms of the newest of them, until it begins
        self.failure: BaseException | None = None  # why one of them could not be
        self.closed = False
        self.generation = 0  # number of connections so far
        # Kinds of failures that were logged since the link last worked: a connection is
        # no sign of that, as Redis may refuse what it is asked. The start of the server
        # has said whether Redis is away.
        self.told: set[type[BaseException]] = {*AWAY}
        self.probe = probe or "probe:" + secrets.token_hex(6)
        self.unheard = math.inf  # probe intervals since the last probe came back
        self.tasks = [
            keep("link", self._listen, failures),
            keep("probe", self._probe, failures),
        ]

    @property
    def deaf(self) -> bool:
        """Whether messages may be missed: not connected, or no probe comes back."""
        return self.connection is None or self.unheard * PROBE_INTERVAL > SILENCE

    async def stop(self) -> None:
        self.closed = True
        for task in self.tasks:
            await ended(task)

    async def subscribe(self, room: str) -> None:
        """Subscribe to a room; return when Redis has confirmed it.

        Raises:
            BrokerDown: Redis does not confirm it, or this link is stopped.

        """
        if self.closed:
            raise BrokerDown(CLOSED)
        confirmed = self.rooms.get(room)
        if confirmed is None:
            confirmed = asyncio.get_running_loop().create_future()
            await self.adopt(room, confirmed)
        try:
            async with Patience(TIMEOUT):
                await asyncio.shield(confirmed)
        except TimeoutError:
            raise BrokerDown("Redis does not confirm a subscription") from None

    async def adopt(self, room: str, confirmed: asyncio.Future[None]) -> None:
        """Subscribe to a room that another link may have subscribed to before.

        Args:
            room: Name of the room.
            confirmed: Set when Redis confirms. If it is set already, the room is caught
                up with instead (``again``).

        """
        self.rooms[room] = confirmed
        await self._ask(self.entry, (room, confirmed))

    async def unsubscribe(self, room: str) -> None:
        if self.rooms.pop(room, None) is not None:
            await self._ask(self.exit, (room, None))

    async def _ask(
        self, command: str, *rooms: tuple[str, asyncio.Future[None] | None]
    ) -> None:
        if self.connection is None:
            return  # the next connection subscribes to everything
        self.asked += ((command, room, confirmed) for room, confirmed in rooms)
        channels = [channel_of(room) for room, _ in rooms]
        portions = range(0, len(channels), self.together)
        asked = [(command, *channels[at : at + self.together]) for at in portions]
        # A connection that has just ended cannot be written to: uvloop raises
        # RuntimeError, and redis-py AttributeError, where it is closed between its
        # check and its write. The next one subscribes to everything.
        with contextlib.suppress(RedisError, OSError, RuntimeError, AttributeError):
            await self.connection.send_packed_command(packed(asked))

    async def _listen(self) -> None:
        while True:
            try:
                await self._follow()
            except (RedisError, OSError, BrokerDown, TimeoutError) as exc:
                # The library wraps a refusal of Redis, such as of a password.
                cause = exc.__cause__ if isinstance(exc.__cause__, RedisError) else exc
                if type(cause) not in self.told:  # not at every attempt to connect
                    self.told.add(type(cause))
                    words = f"{type(cause).__name__}: {cause}".rstrip(": ")[:200]
                    where = address(self.connections)
                    log.warning("the link to Redis at %s broke: %s", where, words)
            finally:
                self.broke()
            await asyncio.sleep(0.1 + secrets.randbelow(400) / 1000)

    async def _follow(self) -> None:
        """Connect, subscribe to all rooms, and pass on messages until the link breaks.

        Returns when Redis ends a subscription by itself.

        Raises:
            TimeoutError: Nothing was heard for ``SILENCE`` seconds.
            RedisError, OSError, BrokerDown: The connection broke.

        """
        connection: AbstractConnection = self.connections.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            self.asked.clear()
            self.connection = connection
            self.generation += 1
            known = list(self.rooms.items())
            await self._ask(self.entry, (self.probe, None), *known)
            # One deadline that is renewed: one for each message would take 10 us.
            async with Patience(SILENCE) as patience:
                going = True
                while going:
                    patience.renew()
                    said = await _said(connection)
                    patience.hold()
                    going = await self._pass_on(*said)
                    if self.failure is not None:  # the next connection tries again
                        raise self.failure
        finally:
            self.connection = self.failure = None
            for task in self.catching.values():
                task.cancel()
            self.batch = []
            await connection.disconnect(nowait=True)

    async def _pass_on(self, kind: str, room: str, data: Any) -> bool:
        """Handle an answer of Redis.

        Args:
            kind: ``message`` or ``smessage``, or the command that is confirmed.
            room: Name of the room.
            data: The published data.

        Returns:
            False if Redis ended a subscription: the room's slot has moved.

        """
        if not kind.endswith("message"):
            return await self._confirmed(kind.upper(), room)
        if room == self.probe:
            self.unheard = 0
            self.told.clear()
        else:
            if room in self.catching:
                await asyncio.wait((self.catching[room],))
            await self.heard(room, data)
        return True

    async def _confirmed(self, command: str, room: str) -> bool:
        """Note that Redis confirmed a command; return False if it was not sent.

        Redis confirms in the order of the commands. A room may be unsubscribed and
        subscribed again quickly: the first confirmation belongs to the older command.
        """
        if not self.asked or self.asked[0][:2] != (command, room):
            return False
        *_, confirmed = self.asked.popleft()
        if confirmed is None:  # an unsubscription, or the subscription of the probe
            return True
        if confirmed.done():  # subscribed again: messages may have been missed
            self._catch_up(room)
        else:
            confirmed.set_result(None)
        return True

    def _catch_up(self, room: str) -> None:
        """Catch up with a room, together with others whose confirmations it came with.

        The task begins when all that one read of the socket has brought is passed on.
        """
        if 0 < len(self.batch) < self.together:
            task = self.catching[self.batch[0]]
        else:
            self.batch = []
            task = asyncio.create_task(self._again(self.batch))
            task.add_done_callback(partial(self._caught_up, self.batch))
        self.batch.append(room)
        self.catching[room] = task

    async def _again(self, rooms: list[str]) -> None:
        if self.batch is rooms:
            self.batch = []
        await self.again(rooms)

    def _caught_up(self, rooms: Sequence[str], task: asyncio.Task[None]) -> None:
        for room in rooms:
            if self.catching.get(room) is task:
                del self.catching[room]
        if not task.cancelled():
            problem = task.exception()  # asyncio logs one that nobody asks for
            self.failure = self.failure or problem

    async def _probe(self) -> None:
        while True:
            # Its answer does not matter: the probe must come back through the link.
            self.commands.call(PROBE, (channel_of(self.probe),), ())
            await asyncio.sleep(PROBE_INTERVAL)
            self.unheard += 1


async def _said(connection: AbstractConnection) -> tuple[str, str, Any]:
    """Return kind, room and data of the next answer that a subscriber may get.

    Raises:
        InvalidResponse: It is no such answer.

    """
    said = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
    match said:
        case [bytes(kind), bytes(name), data]:
            room = name.decode(errors="replace")[5:-1]  # the inverse of channel_of
            return kind.decode(errors="replace"), room, data
    raise InvalidResponse("no answer to a subscription")
