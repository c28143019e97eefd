"""A room's feed in a new epoch: what its members are told."""

from __future__ import annotations

from typing import Any

from labserver.redis.feed import Feed
from labserver.redis.seen import Seen
from labserver.server.hub import Hub
from labserver.server.metrics import Metrics
from labserver.server.parts import Position

NOBODY: Any = None  # no server is asked here


class Told(Hub):
    """A hub that notes the epochs that it is told of."""

    def __init__(self) -> None:
        super().__init__(Metrics(), emptied=lambda room: None)
        self.told: list[tuple[str, int, bool]] = []

    def renumber(self, name: str, epoch: str, seq: int, goes_on: bool = False) -> None:
        self.told.append((epoch, seq, goes_on))


def test_epoch_that_goes_on_is_told_with_its_newest_message() -> None:
    hub = Told()
    feed = Feed("red", hub, Seen(NOBODY))
    feed.begin("a", 3)
    assert feed.adopt(Position("b", 7, before=("a", 5)))
    assert (feed.epoch, feed.seq) == ("b", 3)  # 4 to 7 are still to be delivered
    assert hub.told == [("b", 7, True)]


def test_epoch_that_does_not_go_on_is_told_from_its_start() -> None:
    hub = Told()
    feed = Feed("red", hub, Seen(NOBODY))
    feed.begin("a", 6)
    assert not feed.adopt(Position("b", 7, before=("a", 5)))
    assert (feed.epoch, feed.seq) == ("b", 5)
    assert hub.told == [("b", 5, False)]
