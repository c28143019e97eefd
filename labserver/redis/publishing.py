"""Publishes to Redis: the messages of one tick in one call for each room."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from labserver.errors import TooManyRooms
from labserver.redis.memory import Memory
from labserver.redis.messages import (
    BEGAN,
    KEEPS,
    PUBLISH,
    REFUSED,
    Outgoing,
    fail,
    pay,
    portions,
    said,
)
from labserver.redis.nodes import Nodes, call
from labserver.server.metrics import Metrics
from labserver.server.parts import BEGINS, History


class Publisher:
    """Numbers, keeps and publishes messages, by one script.

    Args:
        nodes: The Redis servers.
        history: How much a room keeps, and for how long.
        memory: Counts the messages that are kept.
        metrics: Counts messages, and times the calls.

    """

    def __init__(
        self, nodes: Nodes, history: History, memory: Memory, metrics: Metrics
    ) -> None:
        self.nodes, self.history = nodes, history
        self.memory, self.metrics = memory, metrics
        self.outbound: dict[str, list[Outgoing]] = {}

    def publish(self, room: str, message: Outgoing) -> None:
        """Send a message at the end of this tick; ``message.stored`` takes its seq."""
        if not self.outbound:
            asyncio.get_running_loop().call_soon(self._send)
        self.outbound.setdefault(room, []).append(message)

    def _send(self) -> None:
        """Send the messages of one tick, with one call a room if they fit."""
        outbound, self.outbound = self.outbound, {}
        asked, key_ttl = time.monotonic(), self.memory.key_ttl
        for room, published in outbound.items():
            for messages in portions(published):
                keys, args = said(room, self.history, messages, key_ttl)
                answer = call(self.nodes, room, PUBLISH, keys, args, publishes=True)
                answer.add_done_callback(partial(self._stored, room, messages, asked))

    def _stored(
        self,
        room: str,
        messages: list[Outgoing],
        asked: float,
        answer: asyncio.Future[list[int]],
    ) -> None:
        """Tell the publishers their seqs, or why their messages are not stored.

        Args:
            room: Name of the room.
            messages: The messages of one call.
            asked: Time at which it was sent (``time.monotonic``).
            answer: The result of the script.

        """
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
