"""Wrong ways to try again: all together, too late, or where nobody wants you."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from labserver.client import Backoff, Client
from labserver.mistakes.mistake import Mistake


class NoJitter(Backoff):
    """Wait exactly as long as everybody else who lost the same server."""

    def next(self, draw: Callable[[], float] = random.random) -> float:
        return super().next(lambda: 1.0)


class DoubledBeforeUse(Backoff):
    """Double the delay, then wait: the first one is never used."""

    def next(self, draw: Callable[[], float] = random.random) -> float:
        self.attempt += 1
        ceiling = min(self.cap, self.first * 2.0 ** min(self.attempt, 60))
        return draw() * ceiling


class CapAfterJitter(Backoff):
    """Draw first, and cut what is too long: nearly everybody waits for the cap."""

    def next(self, draw: Callable[[], float] = random.random) -> float:
        ceiling = self.first * 2.0 ** min(self.attempt, 60)
        self.attempt += 1
        return min(self.cap, draw() * ceiling)


class ReturnsAnyway(Client):
    """Reconnect on every close; the code is for the log."""

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
        "Everybody comes back in the same moment: 10,000 handshakes in 100 ms.",
        "the article; Phoenix.js",
        "first_attempts_are_spread",
        client=_client(NoJitter),
    ),
    Mistake(
        "doubled-before-use",
        "resume",
        "The first wait is twice what was meant, after every short break.",
        "the article: the delay is doubled before it is used",
        "first_attempt_comes_soon",
        client=_client(DoubledBeforeUse),
    ),
    Mistake(
        "cap-after-jitter",
        "resume",
        "In a long outage nearly everybody waits for exactly the cap, and returns "
        "together.",
        "Socket.IO: at attempt 3, 90 % of clients wait exactly 5 s",
        "late_attempts_are_spread",
        client=_client(CapAfterJitter),
    ),
    Mistake(
        "returns-anyway",
        "resume",
        "A client that was told to stay away comes back again and again: a storm.",
        "rapidpro#6836",
        "client_stays_away_when_told",
        client=ReturnsAnyway,
    ),
)
