"""The goodbye of a server that drains, spread so that no other replica is stormed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

from labserver.contract import closing
from labserver.server.member import Member

RETURN_RATE = 1000.0  # handshakes a second: assumed capacity of another replica
GOODBYES = 20  # connections that are closed at a time


async def say_goodbye(
    members: Iterable[Member], within: float, return_rate: float
) -> None:
    """Close members' connections, spread over some seconds.

    Each client is told when to reconnect, so that they come to other replicas at the
    rate at which handshakes are admitted. All at once would be a storm there.

    Args:
        members: The members.
        within: Seconds that it takes at most.
        return_rate: Handshakes a second that other replicas admit; 0 if not known.

    """
    leaving = list(members)
    random.shuffle(leaving)
    spread = len(leaving) / (return_rate or RETURN_RATE)
    pause = min(spread, within) / max(1, len(leaving))
    for number, member in enumerate(leaving, start=1):
        member.end(closing.draining(random.uniform(0.0, max(1.0, spread))))
        if number % GOODBYES == 0:
            await asyncio.sleep(pause * GOODBYES)
