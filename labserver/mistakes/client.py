"""Mistakes of clients: reconnect all together, too late, or against a close code."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from labserver.client import Backoff, Client
from labserver.mistakes.mistake import Mistake


class NoJitter(Backoff):
    """Wait exactly as long as all other clients of the lost server."""

    def next(self, draw: Callable[[], float] = random.random) -> float:
        return super().next(lambda: 1.0)


class DoubledBeforeUse(Backoff):
    """Double the delay before the first wait, so the first delay is never used."""

    def next(self, draw: Callable[[], float] = random.random) -> float:
        self.attempt += 1
        ceiling = min(self.cap, self.first * 2.0 ** min(self.attempt, 60))
        return draw() * ceiling


class CapAfterJitter(Backoff):
    """Draw first, then apply the cap, so most clients wait exactly for the cap."""

    def next(self, draw: Callable[[], float] = random.random) -> float:
        ceiling = self.first * 2.0 ** min(self.attempt, 60)
        self.attempt += 1
        return min(self.cap, draw() * ceiling)


class ReturnsAnyway(Client):
    """Reconnect after every close, and ignore its code."""

    def _after_close(self, code: int | None, reason: str | None) -> float:
        self.latest_close = code
        return self.backoff.next()


def _client(made: type[Backoff]) -> Callable[..., Client]:
    def client(*args: Any, **options: Any) -> Client:
        return Client(*args, backoff=made(), **options)

    return client


MISTAKES = (
    Mistake(
        "no-jitter",
        "resume",
        "All clients come back at the same moment: 10,000 handshakes in 100 ms.",
        "a tutorial on Node's ws; Phoenix.js",
        "first_attempts_are_spread",
        client=_client(NoJitter),
    ),
    Mistake(
        "doubled-before-use",
        "resume",
        "After every short break, the first wait is twice as long as intended.",
        "a tutorial on Node's ws: the delay is doubled before it is used",
        "first_attempt_comes_soon",
        client=_client(DoubledBeforeUse),
    ),
    Mistake(
        "cap-after-jitter",
        "resume",
        "In a long outage most clients wait for exactly the cap, and come back "
        "together.",
        "Socket.IO: at attempt 3, 90 % of clients wait exactly 5 s",
        "late_attempts_are_spread",
        client=_client(CapAfterJitter),
    ),
    Mistake(
        "returns-anyway",
        "resume",
        "A client that must not come back does so again and again.",
        "rapidpro#6836",
        "client_stays_away_when_told",
        client=ReturnsAnyway,
    ),
)
