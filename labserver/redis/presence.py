"""Who is here, over several replicas: what each says to Redis, and what it hears.

One script (presence.lua) notes what a replica says, drops what has expired, publishes
a hint to the others if anything changed, and answers; the names only to who does not
know them yet. All of it is bounded by the number of replicas, not of people.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from labserver.contract.messages import encode_json
from labserver.redis.commands import script
from labserver.server.presence import NAMED_LIMIT, Roster

PRESENCE = script("presence.lua")


def said(replica: str, mine: Roster, ttl: int, known: Roster | None) -> tuple[Any, ...]:
    """Return what a replica says, as the script's arguments."""
    version = known.version if known is not None else 0
    who = encode_json(mine.users)
    return replica, version, ttl, NAMED_LIMIT, mine.count, who


def heard(answer: Sequence[Any], known: Roster | None) -> Roster:
    """Return who is in the room, from the script's answer."""
    version, forgotten, count, *rosters = answer
    if known is not None and version == known.version:
        return Roster(known.count, known.users, version)
    if count > NAMED_LIMIT:
        return Roster(count, None, version, bool(forgotten))
    users: dict[str, str] = {}
    for roster in rosters:
        users |= msgspec.json.decode(roster, type=dict[str, str])
    return Roster(count, users, version, bool(forgotten))
