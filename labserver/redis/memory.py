"""What rooms remember stays within Redis's memory, whoever fills it.

A Redis that is full refuses everything, from everybody. So each replica knows what it
had stored (:mod:`labserver.server.ledger`), and looks how full Redis is: once a second,
and when it stored much. Above three quarters every replica forgets the same fraction
of what it stored: that leads back to a half, however many replicas there are, without a
word between them. Histories go, the heaviest users' first; numberings and live messages
do not, and who comes back to a room that was forgotten is told. New idempotency keys
are kept for ``BRIEFLY`` meanwhile: long enough for a client that tries again.

What it guarantees: histories do not fill a Redis that is the lab's own, and where it
has no limit of its own, each replica stores at most ``KEPT_LIMIT``. What a replica had
stored that was killed is only gone after the history's ttl. A Redis that evicts by
itself is left to that, and one that others fill leaves each replica ``FLOOR``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence

from labserver.errors import BrokerDown
from labserver.redis.commands import address, ended
from labserver.redis.messages import Outgoing, keys_of
from labserver.redis.nodes import Nodes, call
from labserver.server.ledger import Ledger
from labserver.server.parts import KEPT_LIMIT, KEY_TTL, History

log = logging.getLogger("labserver")
LOOK_INTERVAL = 1.0  # seconds between two looks
PAUSE = 0.05  # seconds between two, at least: a full Redis refuses at any rate
STEP = 1 / 32  # of Redis's memory: who stored that much looks at once
HIGH, LOW = 3 / 4, 1 / 2  # of it: when histories are forgotten, and until when
BRIEFLY = 10.0  # seconds
FLOOR = 1 / 64  # of it that each replica may fill, whatever else is there
FULLNESS = """
local info = redis.call('INFO', 'memory')
local function value(name)
  return string.match(info, '\\n' .. name .. ':(%w+)')
end
return {tonumber(value('used_memory')), tonumber(value('maxmemory')),
  value('maxmemory_policy')}
"""
FORGET = "return redis.call('UNLINK', KEYS[1])"


class Memory:
    """Bounds what this replica keeps in Redis.

    Args:
        nodes: Where the rooms live.
        history: How much a room keeps, and for how long.

    """

    def __init__(self, nodes: Nodes, history: History) -> None:
        self.nodes = nodes
        self.ledger = Ledger(history.limit, history.ttl)
        self.step = KEPT_LIMIT * STEP  # bytes
        self.stored = 0  # bytes since the last look
        self.tight = False  # whether a Redis was nearly full at the last look
        self.urgent = asyncio.Event()
        self.task = asyncio.create_task(self._watch())

    @property
    def key_ttl(self) -> float:
        """Seconds that an idempotency key is kept."""
        return BRIEFLY if self.tight else KEY_TTL

    async def stop(self) -> None:
        await ended(self.task)

    def note(self, room: str, messages: Sequence[Outgoing]) -> None:
        """Note what a room keeps now."""
        now = time.monotonic()
        for each in messages:
            self.ledger.note(room, each.user, len(each.tail), now)
            self.stored += len(each.tail)
        if self.stored > self.step:
            self.urgent.set()

    def refused(self) -> None:
        """Note that Redis refused something: perhaps it is full."""
        self.urgent.set()

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL):
                    await self.urgent.wait()
            self.urgent.clear()
            self.stored = 0
            try:
                await self._look()
            except Exception:
                log.exception("how full Redis is could not be found out")
            await asyncio.sleep(PAUSE)

    async def _look(self) -> None:
        target: float = KEPT_LIMIT
        tight: list[str] = []
        for node in self.nodes.everywhere:
            try:
                used, most, policy = await node.commands.call(FULLNESS, (), ())
            except BrokerDown:
                continue  # of a cluster the others may go on
            if not most or policy != b"noeviction":
                continue
            self.step = min(self.step, most * STEP)
            if used > most * HIGH:
                tight.append(address(node.connections))
                share = self.ledger.size * most * LOW / used
                target = min(target, max(share, most * FLOOR))
        self.tight = bool(tight)
        cut = self.ledger.cut(target, time.monotonic())
        if cut:
            about = {"redis": ",".join(tight) or "no limit of its own"}
            log.warning("forgot what %d rooms remembered", len(cut), extra=about)
            asked = [
                call(self.nodes, room, FORGET, keys_of(room)[1:], ()) for room in cut
            ]
            await asyncio.gather(*asked, return_exceptions=True)
