"""A replica of a simulated Redis: it has what its primary wrote, some time later.

Redis answers before it replicates. What has not arrived when the primary dies is lost,
although it was answered, unless the primary was asked to wait (``WAIT``).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from labserver.simulated.loop import VirtualLoop

if TYPE_CHECKING:
    from labserver.simulated.store import Store

LAG = 0.0005  # seconds until a write arrives, on average
SYNC = 0.5  # seconds until a new replica has a copy of everything


class Standby:
    """One replica; it is promoted by taking its part of the primary's journal.

    Args:
        loop: Tells the time.
        store: The data of its primary.
        seed: What its delays begin with.
        confirmed: Called when the primary hears that it has more.

    Attributes:
        has: Commands of the journal that it has; None until it has a first copy.
        told: How many of them the primary knows about.

    """

    def __init__(
        self,
        loop: VirtualLoop,
        store: Store,
        seed: str,
        confirmed: Callable[[], None] = lambda: None,
    ) -> None:
        self.loop, self.store, self.confirmed = loop, store, confirmed
        self.dice = random.Random(f"{seed}/standby")
        self.has: int | None = None
        self.told: int | None = None
        self.holds = 0  # reasons for which nothing arrives
        self._later(self._copy, SYNC)

    def written(self) -> None:
        """Note that the primary has written: it arrives soon."""
        if not self.holds and self.has is not None:
            self._later(partial(self._take, len(self.store.journal)))

    def hold(self) -> None:
        self.holds += 1

    def release(self) -> None:
        """Let everything arrive that was held."""
        self.holds -= 1
        self.written()

    def _copy(self) -> None:
        """Have a copy of everything. Nobody promotes a replica before that."""
        if self.holds:
            return self._later(self._copy, SYNC)
        self.has = len(self.store.journal)
        self._later(partial(self._tell, self.has))

    def _take(self, count: int) -> None:
        if not self.holds and self.has is not None and count > self.has:
            self.has = count
            self._later(partial(self._tell, count))

    def _tell(self, count: int) -> None:
        if self.told is None or count > self.told:
            self.told = count
            self.confirmed()

    def _later(self, then: Callable[[], None], seconds: float = LAG) -> None:
        delay = seconds * (0.5 + self.dice.expovariate(2.0))
        self.loop.at(self.loop.time() + delay, then)
