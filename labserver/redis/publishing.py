"""Publishes to Redis: the messages of one tick in one call for each room."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

from labserver.errors import TooManyRooms
from labserver.redis.history import Histories
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
from labserver.redis.nodes import call
from labserver.redis.seen import Claim
from labserver.server.metrics import Metrics
from labserver.server.parts import BEGINS


class Publisher:
    """Numbers, keeps and publishes messages, by one script.

    Args:
        histories: The rooms' histories; they learn what is acknowledged.
        memory: Counts the messages that are kept.
        metrics: Counts messages, and times the calls.

    """

    def __init__(self, histories: Histories, memory: Memory, metrics: Metrics) -> None:
        self.nodes, self.history = histories.nodes, histories.history
        self.seen = histories.seen
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
                claim = self.seen.claim(room)
                keys, args = said(room, self.history, messages, key_ttl, claim)
                answer = call(self.nodes, room, PUBLISH, keys, args, publishes=True)
                answer.add_done_callback(
                    partial(self._stored, room, messages, claim, asked)
                )

    def _stored(
        self,
        room: str,
        messages: list[Outgoing],
        claim: Claim,
        asked: float,
        answer: asyncio.Future[list[Any]],
    ) -> None:
        """Tell the publishers their seqs, or why their messages are not stored.

        Args:
            room: Name of the room.
            messages: The messages of one call.
            claim: What it said that was seen of the room.
            asked: Time at which it was sent (``time.monotonic``).
            answer: The result of the script.

        """
        if (problem := answer.exception()) is not None:
            self.memory.refused()
            return fail(messages, problem)
        became, new, epoch, *seqs = answer.result()
        if became == REFUSED:
            return fail(messages, TooManyRooms(BEGINS))
        self.seen.judged(room, claim, epoch.decode())
        self.seen.note(room, epoch.decode(), max(seqs))
        if became == BEGAN:
            pay(messages)
        elif became == KEEPS:
            self.memory.note(room, messages)
        self.metrics.published += new
        self.metrics.broker_latency.observe(time.monotonic() - asked)
        for each, seq in zip(messages, seqs, strict=True):
            each.stored.set_result(seq)
