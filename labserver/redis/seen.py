"""What this server has seen of its rooms: messages that it acknowledged or delivered.

Redis answers before it replicates, so a new primary may lack the newest messages. It
does not know that there were any. Members of this server may have got them; members of
other servers never hear of them.

How: each call of a script says what was seen, and a script that finds less than that
begins an epoch that continues none, so that all members are told (numbering.lua). After
a change of primary all rooms are asked about, also those that have no members here.

Limits: what a server acknowledged is not told if it dies with the primary, or has seen
more than ``SEEN_LIMIT`` rooms since. ``--confirm-replicas`` has neither limit.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict

from labserver.errors import BrokerDown
from labserver.redis.commands import script
from labserver.redis.messages import keys_of
from labserver.redis.nodes import Nodes, call

SEEN_LIMIT = 10_000  # rooms, in about 300 bytes each
# A room that is not there has no members that have to be told.
ASK = (
    script("numbering.lua")
    + """
return redis.call('EXISTS', KEYS[1]) == 1
  and numbered(KEYS[1], KEYS[2], ARGV[3], ARGV[4], ARGV[5])
"""
)

Claim = tuple[str, int]  # an epoch and a seq; ("", 0) for nothing


class Seen:
    """The newest message of each room that this server has seen.

    Args:
        nodes: The Redis servers.

    """

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        # By room: seqs by epoch, the oldest epoch first. There is one, but for moments.
        # A dict takes 4 us to find its first key after many of them have gone.
        self.rooms: OrderedDict[str, dict[str, int]] = OrderedDict()
        self.doubtful: dict[str, None] = {}  # rooms about which Redis must be asked
        self.reigns: list[bytes] = []  # of the servers, at the last look

    def note(self, room: str, epoch: str, seq: int) -> None:
        """Note that a message was acknowledged or delivered."""
        claims = self.rooms.get(room)
        if claims is None:
            if len(self.rooms) >= SEEN_LIMIT:
                self.rooms.popitem(last=False)
            claims = self.rooms[room] = {}
        if seq > claims.get(epoch, 0):
            claims[epoch] = seq
            if len(claims) > 1:
                self.doubtful[room] = None

    def claim(self, room: str) -> Claim:
        """Return what the next call about a room says."""
        claims = self.rooms.get(room)
        return next(iter(claims.items())) if claims else ("", 0)

    def judged(self, room: str, claim: Claim, epoch: str) -> None:
        """Note that Redis, now in an epoch, was told of a claim.

        Another message of the claim's epoch may have been seen meanwhile.
        """
        claims = self.rooms.get(room, {})
        if claim[0] != epoch and claims.get(claim[0]) == claim[1]:
            del claims[claim[0]]

    async def look(self) -> None:
        """Ask about rooms in doubt; about all rooms after a change of primary."""
        reigns = [node.commands.server for node in self.nodes.everywhere]
        if reigns != self.reigns:
            self.reigns = reigns
            self.doubtful.update(dict.fromkeys(self.rooms))
        if self.doubtful and not self.nodes.deaf:  # else Redis is away
            rooms, self.doubtful = list(self.doubtful), {}
            await asyncio.gather(*map(self._ask, rooms))

    async def _ask(self, room: str) -> None:
        for claim in list(self.rooms.get(room, {}).items()):
            args = (secrets.token_hex(4), *claim)
            try:
                epoch = await call(self.nodes, room, ASK, keys_of(room), args)
            except BrokerDown:
                self.doubtful[room] = None
                return
            self.judged(room, claim, epoch.decode() if epoch else "")
