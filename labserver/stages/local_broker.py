"""The naive broker: one process decides the order of its own rooms, in memory."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict, deque
from itertools import islice

from labserver.contract.messages import Event, event
from labserver.errors import TooManyRooms
from labserver.server.hub import Hub
from labserver.server.ledger import Ledger
from labserver.server.limits import TokenBucket
from labserver.server.metrics import Metrics
from labserver.server.parts import BEGINS, KEPT_LIMIT, KEY_TTL, History, Position
from labserver.server.presence import Roster
from labserver.stages.keys import Keys


class Log:
    """A room's numbering in this process, and the newest of its messages."""

    __slots__ = ("epoch", "expires", "kept", "seq", "told")

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(4)
        self.seq = 0
        self.kept: deque[tuple[float, Event]] = deque()
        self.expires = 0.0  # when the log may be forgotten (time.monotonic)
        self.told = False  # whether a client was told a position, and may come back


class LocalBroker:
    """Numbers, keeps and delivers the messages of rooms within this process.

    Attributes:
        logs_limit: Rooms remembered; beyond it, rooms without members are forgotten.
        keys_limit: Idempotency keys remembered for each room.
        kept_limit: Bytes of history of all rooms.

    """

    deaf = False
    logs_limit = 100_000
    keys_limit = 100_000  # of idempotency keys, all rooms together
    kept_limit = KEPT_LIMIT

    def __init__(self) -> None:
        self.logs: OrderedDict[str, Log] = OrderedDict()
        self.kept = 0  # bytes of history of all rooms
        self.keys = Keys(self.keys_limit, KEY_TTL)

    async def start(self, hub: Hub, history: History, metrics: Metrics) -> None:
        self.hub, self.history, self.metrics = hub, history, metrics
        self.ledger = Ledger(history.limit, history.ttl)
        self.loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        self.logs.clear()

    def publish(
        self,
        room: str,
        tail: bytes,
        key: str | None = None,
        user: str = "",
        begins: TokenBucket | None = None,
    ) -> asyncio.Future[int]:
        now = time.monotonic()
        done: asyncio.Future[int] = self.loop.create_future()
        if begins is not None and room not in self.logs:
            if begins.level < 1.0:
                done.set_exception(TooManyRooms(BEGINS))
                return done
            begins.take(now)
        log = self._log(room)
        if key:  # another user's equal key is another key
            first = self.keys.seq(user, room, key, log.epoch, now)
            if first is not None:
                done.set_result(first)
                return done
        log.seq += 1
        self.metrics.published += 1
        message = event(room, log.seq, tail)
        if log.told and self.history.limit:
            self._keep(log, now, message)
            self.ledger.note(room, user, len(message.json), now)
            if self.kept > self.kept_limit:
                self._relieve(now)
        log.expires = max(log.expires, now + self.history.ttl)
        if key:
            self.keys.note(user, room, key, log.epoch, log.seq, now)
            log.expires = now + max(KEY_TTL, self.history.ttl)
        self.hub.deliver(room, message)
        self._forget(now)
        done.set_result(log.seq)
        return done

    def _keep(self, log: Log, now: float, message: Event) -> None:
        if len(log.kept) == self.history.limit:
            self.kept -= len(log.kept.popleft()[1].json)
        log.kept.append((now, message))
        self.kept += len(message.json)

    def _relieve(self, now: float) -> None:
        """Forget an eighth of all histories, the heaviest users' rooms first."""
        goal = self.ledger.size * self.kept_limit * 7 / 8
        for room in self.ledger.cut(goal / self.kept, now):
            if (log := self.logs.get(room)) is not None:
                self._empty(log)

    def _empty(self, log: Log) -> None:
        self.kept -= sum(len(each.json) for _, each in log.kept)
        log.kept.clear()

    async def subscribe(self, room: str) -> None:
        self._log(room)

    def unsubscribe(self, room: str) -> None:
        self._may_return(room)
        self._forget(time.monotonic())

    async def read(self, room: str, after: int | None) -> Position:
        log = self._log(room)
        log.told = True
        self._may_return(room)
        if after is None or after >= log.seq:
            return Position(log.epoch, log.seq)
        oldest = time.monotonic() - self.history.ttl
        kept = [e for at, e in log.kept if at > oldest and e.first > after]
        return Position(log.epoch, log.seq, kept)

    async def here(
        self, room: str, mine: Roster, ttl: float, known: Roster | None
    ) -> Roster:
        return mine  # there is no other replica

    def _log(self, room: str) -> Log:
        log = self.logs.get(room)
        if log is None:
            log = self.logs[room] = Log()
        return log

    def _may_return(self, room: str) -> None:
        """Keep a numbering for clients that left with a position, and may come back."""
        if log := self.logs.get(room):
            log.expires = max(log.expires, time.monotonic() + self.history.ttl)

    def _forget(self, now: float) -> None:
        """Forget rooms that are empty and to which no client can come back.

        Checks two rooms a call: that is bounded, and fast enough, since a call adds at
        most one room.
        """
        for name in list(islice(self.logs, 2)):
            log = self.logs[name]
            expired = log.expires <= now
            full = len(self.logs) > self.logs_limit
            if (expired or full) and name not in self.hub.rooms:
                self._empty(log)
                self.ledger.forget(name)
                del self.logs[name]
            else:
                if expired:
                    self._empty(log)  # the members only need the numbering
                self.logs.move_to_end(name)
