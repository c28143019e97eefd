"""Delivers the messages of one room to the hub, once and in order of seq.

Pub/sub brings messages, the history fills the holes, and both may bring the same one. A
feed passes each message on once, and tells which ones are gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from labserver.contract.messages import Event, gap
from labserver.redis.history import LITTLE, Histories, Page
from labserver.redis.seen import Seen
from labserver.server.hub import Hub
from labserver.server.parts import Position


class Feed:
    """The progress of one room.

    Args:
        room: Name of the room.
        hub: Gets the messages.
        seen: Learns what was delivered.

    Attributes:
        epoch: The room's epoch; empty until a read or a message names it.
        seq: Seq of the newest message delivered.
        behind: Whether the link may have missed messages that were not read since.
        moved: Done at the next change; None while nobody waits for one.

    """

    __slots__ = ("behind", "epoch", "hub", "moved", "room", "seen", "seq")

    def __init__(self, room: str, hub: Hub, seen: Seen) -> None:
        self.room, self.hub, self.seen = room, hub, seen
        self.epoch, self.seq = "", 0
        self.behind = False
        self.moved: asyncio.Future[None] | None = None

    def begin(self, epoch: str, seq: int) -> None:
        """Start at a position, unless the feed has started."""
        if not self.epoch:
            self._move(epoch, seq)

    def deliver(self, news: Event) -> None:
        """Deliver an event, unless it was delivered before; fill a hole with a gap."""
        if news.first > self.seq:
            self.lose(news.first - 1)
            self._pass_on(news)

    def lose(self, last: int) -> None:
        """Tell the members that the next messages, up to ``last``, are gone."""
        if last > self.seq:
            self.hub.metrics.gone += last - self.seq
            self._pass_on(gap(self.room, self.seq + 1, last, "broker"))

    def adopt(self, position: Position) -> bool:
        """Go on in a new epoch: from the same seq, or else from where it began.

        Returns:
            Whether it goes on from the same seq. If not, what members had is void, and
            the messages of the new epoch have to be read.

        """
        goes_on = position.continues(self.epoch, self.seq)
        _, base = position.before
        seq = self.seq if goes_on else max(0, base)
        told = position.seq if goes_on else seq
        self.hub.renumber(self.room, position.epoch, told, goes_on)
        self._move(position.epoch, seq)
        return goes_on

    def replay(self, page: Page, until: int | None) -> bool:
        """Deliver a page of the history, and tell which messages are gone.

        Args:
            page: A part of the history, from after ``seq`` on.
            until: The newest seq that the link will not bring; None if unknown.

        Returns:
            Whether no other page is needed.

        """
        last = page.seq if until is None else min(until, page.seq)
        for news in page.kept:
            self.deliver(news)
        self.lose(min(last, page.reached))
        return self.seq >= last

    async def reach(self, epoch: str, seq: int) -> None:
        """Wait until message ``seq`` was delivered, or the epoch has changed."""
        while self.epoch == epoch and self.seq < seq:
            self.moved = self.moved or asyncio.get_running_loop().create_future()
            await asyncio.shield(self.moved)

    def _pass_on(self, news: Event) -> None:
        self.hub.deliver(self.room, news)
        self._move(self.epoch, news.last)

    def _move(self, epoch: str, seq: int) -> None:
        self.epoch, self.seq = epoch, seq
        self.seen.note(self.room, epoch, seq)
        if self.moved is not None:
            self.moved.set_result(None)
            self.moved = None


async def caught_up(
    rooms: Sequence[str], feeds: Mapping[str, Feed], histories: Histories
) -> list[str]:
    """Read a page of each of several rooms, in one call, and replay it.

    Args:
        rooms: Rooms on one server, whose link broke.
        feeds: All feeds, by room.
        histories: Reads the pages.

    Returns:
        The rooms that need more than a page, or another one.

    Raises:
        BrokerDown: Redis does not answer.

    """
    listened = [feeds[room] for room in rooms if room in feeds]
    for feed in listened:
        feed.behind = True
    begun = [feed for feed in listened if feed.epoch]  # a first read has the others'
    if begun:
        wanted = [(feed.room, feed.seq) for feed in begun]
        pages = await histories.pages(wanted, "", LITTLE)
        for feed, page in zip(begun, pages, strict=True):
            goes_on = page.epoch == feed.epoch or feed.adopt(page)
            feed.behind = not (goes_on and feed.replay(page, None))
    return [feed.room for feed in begun if feed.behind]
