"""The histories of rooms do not fill Redis's memory, whoever publishes.

Without this, a full Redis refuses every command of every client.

How: each replica counts the bytes that it stored (:mod:`labserver.server.ledger`). It
asks Redis how full it is: once a second, and after it stored much. Above three quarters
of Redis's memory, every replica deletes the same fraction of what it stored. That frees
memory down to a half, with any number of replicas, and they need not talk to each
other. Histories are deleted, the heaviest users' first. Numberings and live messages
stay, and a client that comes back to a deleted history is told. Meanwhile, new
idempotency keys are kept for ``BRIEFLY`` seconds only, which is long enough for a
client that tries again.

Limits: this protects a Redis that only the lab uses. In a Redis without a limit of its
own, each replica stores at most ``KEPT_LIMIT`` bytes. The histories that a killed
replica stored stay until their ttl ends. A Redis that evicts keys by itself is left
alone. In a Redis that others fill, each replica may keep ``FLOOR`` of its memory.
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
from labserver.server.tasks import Failures, keep

log = logging.getLogger("labserver")
LOOK_INTERVAL = 1.0  # seconds between two looks
PAUSE = 0.05  # seconds between two looks at least, however often Redis refuses
STEP = 1 / 32  # of Redis's memory: a replica that stored so much looks at once
HIGH, LOW = 3 / 4, 1 / 2  # of Redis's memory: deleting starts at HIGH, ends at LOW
BRIEFLY = 10.0  # seconds that new idempotency keys are kept while memory is short
FLOOR = 1 / 64  # of Redis's memory that each replica may always fill
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
    """Bounds the bytes of history that this replica keeps in Redis.

    Args:
        nodes: The Redis servers.
        history: How much a room keeps, and for how long.
        failures: Counts failures of its task.

    """

    def __init__(self, nodes: Nodes, history: History, failures: Failures) -> None:
        self.nodes = nodes
        self.ledger = Ledger(history.limit, history.ttl)
        self.step = KEPT_LIMIT * STEP  # bytes
        self.stored = 0  # bytes since the last look
        self.tight = False  # whether a Redis was nearly full at the last look
        self.urgent = asyncio.Event()
        self.task = keep("memory", self._watch, failures)

    @property
    def key_ttl(self) -> float:
        """Seconds that an idempotency key is kept."""
        return BRIEFLY if self.tight else KEY_TTL

    async def stop(self) -> None:
        await ended(self.task)

    def note(self, room: str, messages: Sequence[Outgoing]) -> None:
        """Note that a room now keeps these messages."""
        now = time.monotonic()
        for each in messages:
            self.ledger.note(room, each.user, len(each.tail), now)
            self.stored += len(each.tail)
        if self.stored > self.step:
            self.urgent.set()

    def refused(self) -> None:
        """Note that Redis refused a command: it may be full."""
        self.urgent.set()

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL):
                    await self.urgent.wait()
            self.urgent.clear()
            self.stored = 0
            await self._look()
            await asyncio.sleep(PAUSE)

    async def _look(self) -> None:
        target: float = KEPT_LIMIT
        tight: list[str] = []
        for node in self.nodes.everywhere:
            try:
                used, most, policy = await node.commands.call(FULLNESS, (), ())
            except BrokerDown:
                continue  # other servers of a cluster may answer
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
            about = {"redis": ",".join(tight) or "this replica stored its share"}
            log.warning("forgot the histories of %d rooms", len(cut), extra=about)
            asked = [
                call(self.nodes, room, FORGET, keys_of(room)[1:], ()) for room in cut
            ]
            await asyncio.gather(*asked, return_exceptions=True)
