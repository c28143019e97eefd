"""Random faults in replicas on a Redis Cluster, and the oracle's verdict.

    python -m chaos.cluster --minutes 5 --seed 7

It is like ``python -m chaos``, but Redis is a cluster of six processes. Primaries are
killed, after their replica has all data, or frozen until their replica takes over. The
slot of the room is moved.

With ``--confirm-replicas N`` they are killed while replication lags. With N = 1,
nothing that was acknowledged may be gone; with N = 0 it may, and clients must be told.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping
from functools import partial
from typing import ClassVar

from redis.asyncio import Redis

from chaos.__main__ import ROOM, Member, World, main
from chaos.redis_cluster import ClusterServer, redis_cluster
from labserver.judge.world import until
from labserver.redis.messages import key_of

TAKEOVER = 20.0  # seconds for a failover, at most


class ClusterWorld(World):
    """Replicas on a Redis Cluster."""

    redis_for: ClassVar = redis_cluster
    confirms: ClassVar[bool] = True
    weights: ClassVar[dict[str, int]] = {
        "kill_replica": 2,
        "restart_replica": 2,
        "kill_pubsub_links": 4,
        "kill_command_links": 3,
        "kill_primary": 2,
        "freeze_primary": 2,
        "move_room": 3,
        "stall_client": 4,
        "drop_client": 6,
    }

    def servers(self) -> list[ClusterServer]:
        return self.redis.living

    def forgot(self, member: Member) -> bool:
        # A frozen primary may have published a message that its replica never got, with
        # its key. A client that was told of the takeover may get that message again.
        return member.told > 1

    async def gone(self, acknowledged: Mapping[str, str]) -> set[str]:
        owner = await self.owner()
        names = [key_of(ROOM, user, text) for text, user in acknowledged.items()]
        async with Redis.from_url(owner.url) as redis:
            kept = [await redis.exists(name) for name in names]
        return {
            text for text, there in zip(acknowledged, kept, strict=True) if not there
        }

    async def kill_primary(self) -> None:
        """Kill the primary of the room; it comes back as a replica of its replica."""
        old = await self.owner()
        async with asyncio.timeout(TAKEOVER), Redis.from_url(old.url) as redis:
            await until(partial(copied, redis))  # the replica may have just come back
            if self.confirm is None:
                # From now on it answers no writes, so that a replica can catch up.
                await redis.client_pause(round(TAKEOVER * 1000), all=False)
                await until(partial(copied, redis))
            else:
                await lagging(redis, self.dice.uniform(0.0, 0.5))
        old.stop()
        async with asyncio.timeout(TAKEOVER):
            await until(partial(self.taken_over, old))
        await old.start()

    async def taken_over(self, old: ClusterServer) -> bool:
        return await self.redis.owner(ROOM) is not old

    async def freeze_primary(self) -> None:
        """Stop the room's primary for up to three seconds; connections stay open."""
        frozen = await self.owner()
        frozen.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(self.dice.uniform(0.3, 3.0))
        finally:
            frozen.signal(signal.SIGCONT)

    async def move_room(self) -> None:
        """Move the room's slot to another primary."""
        source = await self.owner()
        others = [
            each
            for each in self.redis.living
            if each is not source and await role(each) == "master"
        ]
        await self.redis.move(source, self.dice.choice(others), ROOM)

    async def owner(self) -> ClusterServer:
        """Return the primary of the room, as soon as all servers agree."""
        async with asyncio.timeout(TAKEOVER):
            while True:
                asked = [await self.redis.owner(ROOM, each) for each in self.servers()]
                states = [await each.ask("CLUSTER", "INFO") for each in self.servers()]
                if len(set(asked)) == 1 and all(
                    "cluster_state:ok" in s for s in states
                ):
                    return asked[0]
                await asyncio.sleep(0.05)


async def lagging(primary: Redis, seconds: float) -> None:
    """Cut the link to a primary's replica until it lacks the writes of some time."""
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        await primary.client_kill_filter(_type="replica")
        await asyncio.sleep(0.01)


async def copied(primary: Redis) -> bool:
    """Return whether a replica has all writes of a primary."""
    said = await primary.info("replication")
    replicas = [said[f"slave{number}"] for number in range(said["connected_slaves"])]
    return any(each["offset"] >= said["master_repl_offset"] for each in replicas)


async def role(server: ClusterServer) -> str:
    async with Redis.from_url(server.url) as redis:
        return str((await redis.info("replication"))["role"])


if __name__ == "__main__":
    try:
        sys.exit(main(ClusterWorld, __doc__.partition("\n")[0]))
    except KeyboardInterrupt:
        sys.exit(130)
