"""The answer to a join: where the room stands, and what a returning client is given."""

from __future__ import annotations

from collections.abc import Sequence

from labserver.contract.messages import Cursor, Event, Join, Joined
from labserver.server.parts import Lab


async def answer_to(join: Join, lab: Lab) -> tuple[Joined, Sequence[Event]]:
    """Return the answer, and the messages that follow it.

    A client whose epoch is gone, because Redis lost the room, is told so. If it asks
    for that, it is then given what the room has of the new epoch: all of it is news.

    Raises:
        BrokerDown: The position cannot be read.

    """
    cursor = join.after
    after = None if cursor is None else cursor.seq
    position = await lab.broker.read(join.room, after)
    start = position.start(cursor) if join.from_start else None
    if start is not None:
        position = await lab.broker.read(join.room, start)
        lacks = position.kept[0].first - 1 if position.kept else position.seq
        cursor = Cursor(position.epoch, max(start, lacks))
    missed = lab.history.missed(cursor, position)
    seq = position.seq
    if start is not None and missed:
        seq = missed[0].first - 1
    recovered = missed is not None and start is None
    joined = Joined(join.room, position.epoch, seq, recovered, join.ref)
    return joined, missed or ()
