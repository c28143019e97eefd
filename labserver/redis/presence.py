"""Presence over several replicas: the script's arguments and its answer.

One script (presence.lua) stores the members that a replica has in a room and deletes
expired entries. If anything changed, it tells the other replicas. It answers with the
members of all replicas; with their names only if the replica does not know them yet.
The cost of a call grows with the number of replicas, not of people.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from labserver.contract.messages import encode_json
from labserver.redis.commands import script
from labserver.redis.link import channel_of
from labserver.redis.messages import ms
from labserver.redis.nodes import Nodes, call
from labserver.server.presence import NAMED_LIMIT, Roster

PRESENCE = script("presence.lua")


async def here(
    nodes: Nodes,
    replica: str,
    room: str,
    mine: Roster,
    ttl: float,
    known: Roster | None,
) -> Roster:
    """Store a replica's people of a room; return those of all replicas.

    Args:
        nodes: The Redis servers.
        replica: Name of the replica.
        room: Name of the room.
        mine: The replica's people.
        ttl: Seconds until Redis forgets them.
        known: The roster that was returned the last time, if any.

    Raises:
        BrokerDown: Redis does not answer.

    """
    channel = channel_of(room)
    keys = [channel, f"{channel}:presence"]
    version = known.version if known is not None else 0
    who = encode_json(mine.users)
    args = replica, version, ms(ttl), NAMED_LIMIT, mine.count, who
    return heard(await call(nodes, room, PRESENCE, keys, args), known)


def heard(answer: Sequence[Any], known: Roster | None) -> Roster:
    """Return the members of a room on all replicas.

    Args:
        answer: The script's answer.
        known: The roster that the replica knew when it called the script.

    """
    version, forgotten, count, *rosters = answer
    if known is not None and version == known.version:
        return Roster(known.count, known.users, version)
    if count > NAMED_LIMIT:
        return Roster(count, None, version, bool(forgotten))
    users: dict[str, str] = {}
    for roster in rosters:
        users |= msgspec.json.decode(roster, type=dict[str, str])
    return Roster(count, users, version, bool(forgotten))
