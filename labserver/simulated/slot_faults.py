"""What breaks in a simulated world whose Redis is a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from redis.crc import key_slot

from labserver.redis.link import channel_of
from labserver.simulated.faults import Faults
from labserver.simulated.scenario import Fault
from labserver.simulated.slots import SHARDS, Node
from labserver.simulated.streams import Transport
from labserver.simulated.world import World

TAKEOVER = 10.0  # seconds in which a replica must have taken over


class SlotFaults(Faults):
    """The faults of a world on a cluster: those of Redis befall one of its servers."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.cluster = world.cluster

    def shard(self, fault: Fault) -> int:
        """Return the shard of a room, more often than one that nobody uses."""
        rooms = self.world.rooms
        channel = channel_of(rooms[fault.whom % len(rooms)])
        return self.cluster.view.shard(key_slot(channel.encode()))

    def node(self, fault: Fault) -> Node:
        """Return a server: the primary of a shard two times in three."""
        shard = self.shard(fault)
        chosen = self.cluster.primary if fault.whom % 3 else self.cluster.replica
        return chosen(shard)

    def links(self, fault: Fault) -> list[Transport]:
        name = self.replica(fault).name
        found = (self.network.between(name, host) for host in self.cluster.nodes)
        return [each for some in found for each in some]

    async def part_redis(self, fault: Fault) -> str:
        """Part a replica of the server from one Redis."""
        host = self.node(fault).host
        return await self.part(self.replica(fault).name, host, fault.seconds)

    async def freeze_redis(self, fault: Fault) -> str:
        """Let a Redis stand still; it goes on as if it were what it was."""
        node = self.node(fault)
        was = "a primary" if node.primary else "a replica"
        node.process.stop()
        await asyncio.sleep(fault.seconds)
        node.process.go_on()
        replaced = node.primary and self.cluster.primary(node.shard) is not node
        return f"{was}, replaced meanwhile" if replaced else was

    async def flush_scripts(self, fault: Fault) -> str:
        scripts = self.node(fault).scripts
        count = len(scripts)
        scripts.clear()
        return "scripts known" if count else "no scripts"

    async def stall_replication(self, fault: Fault) -> str:
        node = self.cluster.primary(self.shard(fault))
        standby, before = node.standby, node.waits["not confirmed"]
        standby.hold()
        await asyncio.sleep(fault.seconds)
        if node.process.dead:  # what did not arrive is lost
            return "its primary died"
        standby.release()
        missed = node.waits["not confirmed"] > before
        return "publishes not confirmed" if missed else "nothing waited in vain"

    # Death

    def safe(self, shard: int) -> bool:
        """Return whether the replica of a shard can take over."""
        primary, replica = self.cluster.primary(shard), self.cluster.replica(shard)
        both = self.cluster.reaches(primary) and self.cluster.reaches(replica)
        return both and primary.standby.has is not None

    async def kill_node(self, fault: Fault) -> str:
        """Kill a Redis; it comes back, empty, as a replica."""
        node = self.node(fault)
        if not self.safe(node.shard):
            return "its shard is in trouble"
        was = "a primary" if node.primary else "a replica"
        self.world.kill(node.process)
        if node.primary:
            return f"{was}, {await self.replaced(node, fault)}"
        await asyncio.sleep(fault.seconds / 4)
        self.cluster.start(node.host, node.store.at(0))
        return was

    async def replaced(self, node: Node, fault: Fault) -> str:
        """Start a primary that died again, as a replica if it was replaced.

        Where so many died that the others agree on nothing, it reads its disk.
        """
        await self.taken_over(node)
        await asyncio.sleep(fault.seconds / 4)
        replaced = self.cluster.primary(node.shard) is not node
        kept = 0 if replaced else len(node.store.journal)
        self.cluster.start(node.host, node.store.at(kept))
        return "replaced" if replaced else "nobody took over"

    async def taken_over(self, node: Node) -> bool:
        """Wait until a primary is replaced; return False if it is not."""
        return await self.comes(lambda: self.cluster.primary(node.shard) is not node)

    async def comes(self, holds: Callable[[], bool]) -> bool:
        end = self.world.loop.time() + TAKEOVER
        while not holds():
            if self.world.loop.time() > end:
                return False
            await asyncio.sleep(0.05)
        return True

    async def fail_over(self, fault: Fault) -> str:
        """Let replication lag, and kill the primary."""
        shard = self.shard(fault)
        node = self.cluster.primary(shard)
        if not self.safe(shard):
            return "its shard is in trouble"
        await self.lag(node, fault)
        if self.cluster.primary(shard) is not node or not self.safe(shard):
            return "another primary came"
        lost = len(node.store.journal) - (node.standby.has or 0)
        self.world.kill(node.process)
        how = await self.replaced(node, fault)
        return f"{how}, {'some' if lost else 'no'} writes late"

    async def fail_back(self, fault: Fault) -> str:
        """Part a primary from the others until it is replaced; then its replica."""
        shard = self.shard(fault)
        first = self.cluster.primary(shard)
        if not await self.overtaken(first, fault):
            return "not replaced"
        second = self.cluster.primary(shard)
        await asyncio.sleep(min(1.0, fault.seconds))
        if second is first or not await self.overtaken(second, fault):
            return "replaced once"
        back = self.cluster.primary(shard) is first
        return "promoted again" if back else "another primary came"

    async def overtaken(self, node: Node, fault: Fault) -> bool:
        if not self.safe(node.shard) or self.cluster.primary(node.shard) is not node:
            return False
        await self.lag(node, fault)
        self.cluster.apart[node.host] += 1
        self.cluster.replicate(node.shard)
        try:
            return await self.taken_over(node)
        finally:
            self.cluster.apart[node.host] -= 1

    async def part_node(self, fault: Fault) -> str:
        """Part a Redis from the others and, perhaps, from some replicas."""
        node, replicas = self.node(fault), self.world.replicas
        was = "a primary" if node.primary else "a replica"
        parted = [r.name for n, r in enumerate(replicas) if fault.whom >> n & 1]
        self.cluster.apart[node.host] += 1
        for name in parted:
            self.network.part(name, node.host)
        await asyncio.sleep(fault.seconds)
        for name in parted:
            self.network.join(name, node.host)
        self.cluster.apart[node.host] -= 1
        now = self.cluster.primary(node.shard)
        return f"{was}, replaced" if node.primary and now is not node else was

    async def replace_redis(self, fault: Fault, changes: int) -> str:
        """Restart a primary so soon that nobody takes over for it.

        Args:
            fault: The fault.
            changes: How many commands of its journal are on its disk.

        """
        node = self.cluster.primary(self.shard(fault))
        if not self.cluster.reaches(node):
            return "away"
        lost = len(node.store.journal) - changes
        self.world.kill(node.process)
        await asyncio.sleep(min(fault.seconds / 4, 0.3))
        if self.cluster.primary(node.shard) is not node:
            self.cluster.start(node.host, node.store.at(0))
            return "replaced meanwhile"
        self.cluster.start(node.host, node.store.at(changes))
        return f"{'some' if lost else 'no'} writes lost"

    async def empty_redis(self, fault: Fault) -> str:
        self.world.wiped += 1
        return await self.replace_redis(fault, 0)

    async def old_redis(self, fault: Fault) -> str:
        self.world.wiped += 1
        journal = self.cluster.primary(self.shard(fault)).store.journal
        return await self.replace_redis(fault, int(len(journal) * (1 - fault.part)))

    # Slots

    async def move_slot(self, fault: Fault) -> str:
        """Move the slot of a room to another shard, a few keys at a time."""
        cluster, world = self.cluster, self.world
        room = world.rooms[fault.whom % len(world.rooms)]
        slot = key_slot(channel_of(room).encode())
        giver = cluster.primary(cluster.view.shard(slot))
        taker = cluster.primary((giver.shard + 1 + fault.whom % 2) % SHARDS)
        if not (self.settled(giver) and self.settled(taker)) or giver.migrating:
            return "a shard is in trouble"
        giver.migrating = slot, taker.host
        while keys := cluster.keys(giver, slot):
            for key in keys[: 1 + fault.whom % 30]:
                cluster.give(giver, taker, key)
            await asyncio.sleep(2 * world.network.latency())
            if not (self.settled(giver) and self.settled(taker)):
                await self.give_up(slot, giver, taker)
                return "a shard failed meanwhile"
        cluster.view = cluster.view.moved(slot, taker.shard)
        taker.learn(cluster.view)
        await asyncio.sleep(2 * world.network.latency())
        giver.process.poll(giver.learn, cluster.view)
        return "moved"

    def settled(self, node: Node) -> bool:
        """Return whether a server is a primary on which all agree."""
        cluster = self.cluster
        here = cluster.primary(node.shard) is node and cluster.reaches(node)
        return here and node.view is cluster.view

    async def give_up(self, slot: int, giver: Node, taker: Node) -> None:
        """Delete all keys of a slot whose move has failed: nobody knows where they are.

        Redis promises nothing here. A replica does not know that a slot is on its way.
        """
        self.world.wiped += 1
        giver.migrating = None
        primary = self.cluster.primary
        for shard in (giver.shard, taker.shard):
            await self.comes(partial(lambda n: self.settled(primary(n)), shard))
            self.cluster.drop(primary(shard), slot)
