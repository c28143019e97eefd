"""A token bucket: how often something may happen, with bursts."""

from __future__ import annotations

from collections import OrderedDict


class TokenBucket:
    """Allow ``rate`` events a second and up to ``burst`` of them at once.

    Time is an argument (seconds of any monotonic clock), so that tests need not wait.
    Tokens come back continuously, at ``rate``. (A bucket that gained one token a second
    at any rate passed every test that only looked at the burst: centrifugo#1206.)
    """

    __slots__ = ("burst", "level", "rate", "updated")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self.level = burst
        self.updated = now

    def take(self, now: float, cost: float = 1.0) -> bool:
        """Take ``cost`` tokens; return whether there were enough.

        If there are too few, the bucket goes into debt, of one burst at most.
        """
        # Without min() and max(): this is called several times for each message.
        level = self.level + (now - self.updated) * self.rate
        level = (level if level < self.burst else self.burst) - cost
        self.level = level if level > -self.burst else -self.burst
        self.updated = now
        return level >= 0.0

    def give_back(self, cost: float = 1.0) -> None:
        """Put tokens back, where an event turned out to be free, or cheaper."""
        self.level = min(self.burst, self.level + cost)

    def charge(self, cost: float) -> None:
        """Take ``cost`` tokens more, into a debt of half a burst at most."""
        self.level = max(self.level - cost, min(self.level, -self.burst / 2))

    def refill(self, now: float) -> None:
        """Add the tokens that have come back since the last call."""
        self.level = min(self.burst, self.level + (now - self.updated) * self.rate)
        self.updated = now

    @property
    def exhausted(self) -> bool:
        """Whether the debt has reached its limit, one burst."""
        return self.level <= -self.burst

    def wait(self) -> float:
        """Return the seconds until there is a whole token."""
        return max(0.0, (1.0 - self.level) / self.rate)


class BucketPerName:
    """A bucket for each name, for limits that must hold over several connections.

    Args:
        rate: Events a second of one name; 0 for no limit.
        burst: Events at once; twice the rate unless given.
        names_limit: Buckets kept. The name without events for the longest time is
            forgotten, and starts again with a full bucket.

    """

    def __init__(
        self, rate: float, burst: float = 0.0, names_limit: int = 10_000
    ) -> None:
        self.rate = rate
        self.burst = burst or max(1.0, 2 * rate)
        self.names_limit = names_limit
        self.buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, name: str, now: float) -> bool:
        """Take one token of ``name``; return whether there was one. Without debt."""
        bucket = self.of(name, now)
        if bucket is None or bucket.take(now):
            return True
        bucket.give_back()  # a refusal is free
        return False

    def of(self, name: str, now: float) -> TokenBucket | None:
        """Return the bucket of ``name``, refilled; None when there is no limit."""
        if not self.rate:
            return None
        bucket = self.buckets.get(name)
        if bucket is None:
            bucket = self.buckets[name] = TokenBucket(self.rate, self.burst, now)
            while len(self.buckets) > self.names_limit:
                self.buckets.popitem(last=False)
        else:
            self.buckets.move_to_end(name)
            bucket.refill(now)
        return bucket
