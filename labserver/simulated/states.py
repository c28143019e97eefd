"""Counts how often servers were in states that are rare, and once were wrong.

That no promise was broken says little about a state that no world was ever in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from labserver.redis.link import Link
from labserver.redis.seen import Seen


@contextmanager
def counted(met: Counter[str]) -> Iterator[None]:
    """Count states of links while the block runs."""
    subscribe, unsubscribe = Link.subscribe, Link.unsubscribe
    confirmed, note = Link._confirmed, Seen.note

    async def subscribing(self: Link, room: str) -> None:
        pending = self.rooms.get(room)
        if pending is not None and not pending.done():
            met["link: a join waits for the subscription of another join"] += 1
        elif pending is None and self.connection is None:
            met["link: a first join while the link is broken"] += 1
        elif pending is None and any(each[1] == room for each in self.asked):
            met["link: a first join behind an unsubscription"] += 1
        await subscribe(self, room)

    async def unsubscribing(self: Link, room: str) -> None:
        waits = self.rooms.get(room)
        if waits is None:
            pass  # the room is on another server of a cluster
        elif not waits.done():
            met["link: a room is let go of while its subscription waits"] += 1
        elif self.connection is None:
            met["link: a room is let go of while the link is broken"] += 1
        elif room in self.catching:
            met["link: a room is let go of while it is caught up with"] += 1
        elif self.asked:
            met["link: a room is let go of while others wait"] += 1
        await unsubscribe(self, room)

    async def confirming(self: Link, command: str, room: str) -> bool:
        newer = [each for each in self.asked if each[1] == room][1:]
        if newer:
            met["link: a confirmation while a newer command for the room waits"] += 1
        return await confirmed(self, command, room)

    def noting(self: Seen, room: str, epoch: str, seq: int) -> None:
        note(self, room, epoch, seq)
        if len(self.rooms.get(room, ())) > 1:
            met["a message of an epoch that is over was seen late"] += 1

    replaced: list[tuple[Any, str, Any]] = [
        (Link, "subscribe", subscribing),
        (Link, "unsubscribe", unsubscribing),
        (Link, "_confirmed", confirming),
        (Seen, "note", noting),
    ]
    with ExitStack() as stack:
        for owner, name, counts in replaced:
            stack.enter_context(patch.object(owner, name, counts))
        yield
