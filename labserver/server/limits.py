"""A token bucket: how often something may happen, with bursts."""

from __future__ import annotations

from collections import OrderedDict


class TokenBucket:
    """Allow ``rate`` events a second and up to ``burst`` of them at once.

    Time is an argument (seconds of any monotonic clock), so that the arithmetic can
    be tested without waiting. The refill is continuous: a bucket that gains one token
    a second whatever its rate passes every test that looks at the burst only
    (centrifugo#1206).
    """

    __slots__ = ("burst", "level", "rate", "updated")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self.level = burst
        self.updated = now

    def take(self, now: float, cost: float = 1.0) -> bool:
        """Take tokens, going into debt if there are too few; say if there were enough.

        The debt is at most another burst: :attr:`exhausted` tells when it is reached.
        """
        self.refill(now)
        self.level = max(-self.burst, self.level - cost)
        return self.level >= 0.0

    def give_back(self) -> None:
        """Return a token that was taken: what it was taken for is free."""
        self.level = min(self.burst, self.level + 1.0)

    def charge(self, cost: float) -> None:
        """Take more for what turned out to be dear, into a debt of half a burst."""
        self.level = max(self.level - cost, min(self.level, -self.burst / 2))

    def refill(self, now: float) -> None:
        """Add what has accrued since the last call."""
        self.level = min(self.burst, self.level + (now - self.updated) * self.rate)
        self.updated = now

    @property
    def exhausted(self) -> bool:
        """Whether the debt has grown as large as a burst, which is its bound."""
        return self.level <= -self.burst

    def wait(self) -> float:
        """Return the seconds until a whole token will be there."""
        return max(0.0, (1.0 - self.level) / self.rate)


class BucketPerName:
    """A bucket for each name, where one connection does not stand for one client.

    Args:
        rate: Events a second of one name; 0 for any.
        burst: Events at once; twice the rate unless given.
        names_limit: Buckets kept. Who has been quiet the longest is forgotten, and
            then starts with a full one.

    """

    def __init__(
        self, rate: float, burst: float = 0.0, names_limit: int = 10_000
    ) -> None:
        self.rate = rate
        self.burst = burst or max(1.0, 2 * rate)
        self.names_limit = names_limit
        self.buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, name: str, now: float) -> bool:
        """Take one token of ``name``; say if there was one. There is no debt here."""
        bucket = self.of(name, now)
        if bucket is None or bucket.take(now):
            return True
        bucket.give_back()  # a refusal is free
        return False

    def of(self, name: str, now: float) -> TokenBucket | None:
        """Return the bucket of ``name``, refilled; None when there is no limit."""
        if not self.rate:
            return None
        bucket = self.buckets.pop(name, None)
        if bucket is None:
            bucket = TokenBucket(self.rate, self.burst, now)
        self.buckets[name] = bucket
        while len(self.buckets) > self.names_limit:
            self.buckets.popitem(last=False)
        bucket.refill(now)
        return bucket
