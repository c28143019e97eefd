"""What breaks in a simulated world. Each fault is a method, and mends itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from labserver.simulated.redis import SimulatedRedis
from labserver.simulated.scenario import Fault
from labserver.simulated.streams import Pipe, Transport
from labserver.simulated.world import INTERVAL, REDIS, Replica, World

DEAD = 2 * INTERVAL + 1.0  # seconds after which a dead peer must be gone


class Faults:
    """The faults of a world.

    Args:
        world: The world that they break.

    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.network = world.network

    async def strike(self, fault: Fault) -> None:
        """Let a fault happen; return when it is mended."""
        await asyncio.sleep(fault.at)
        what = f"{fault.name.replace('_', ' ')} {fault.seconds:g} s"
        method: Callable[[Fault], Awaitable[str]] = getattr(self, fault.name)
        self.world.fault(what)
        met = await method(fault)
        self.world.met[f"{fault.name}: {met}"] += 1

    def replica(self, fault: Fault) -> Replica:
        replicas = self.world.replicas
        return replicas[fault.whom % len(replicas)]

    def links(self, fault: Fault) -> list[Transport]:
        """Return the ends at a replica of its connections with Redis."""
        return self.network.between(self.replica(fault).name, REDIS)

    # Clients

    def ends(self, fault: Fault) -> list[Transport]:
        """Return the ends at a client of its connections."""
        members = self.world.members
        process = members[fault.whom % len(members)].process
        return [each for each in self.network.open if each.process is process]

    async def cut_client(self, fault: Fault) -> str:
        """Reset a client's connection at any byte."""
        ends = self.ends(fault)
        flying = any(each.out.flying or each.peer.out.flying for each in ends)
        for each in ends:
            self.network.cut(each)
        return "bytes on their way" if flying else "quiet" if ends else "away"

    async def cut_handshake(self, fault: Fault) -> str:
        """Reset a client's connection, and the next ones in their handshake."""
        ends = self.ends(fault)
        for each in ends:
            self.network.cut(each)
        self.network.ambushes += 3
        return "connected" if ends else "away"

    async def freeze_client(self, fault: Fault) -> str:
        """Let a client stand still: its window fills."""
        process = self.world.members[fault.whom % len(self.world.members)].process
        process.stop()
        await asyncio.sleep(fault.seconds * 2)
        full = any(each.peer.pressed for each in self.ends(fault))
        process.go_on()
        return "window full" if full else "window open"

    async def vanish_client(self, fault: Fault) -> str:
        """Lose all that is sent on a client's connections, for ever.

        Its replica must notice within two intervals, whatever the others do.
        """
        ends = self.ends(fault)
        for each in ends:
            each.out.hold()
            each.peer.out.hold()
        found = await asyncio.gather(*(self.forgotten(each.peer) for each in ends))
        return found[0] if found else "away"

    async def forgotten(self, end: Transport) -> str:
        """Wait until a replica has ended a connection whose peer has vanished.

        One that was too slow before is ended, too: its goodbye has a deadline.
        """
        world, process, at = self.world, end.process, self.world.loop.time()
        processes = [each.process for each in world.replicas if each.process != process]
        elsewhere = False
        while not ended(end) and world.loop.time() < at + DEAD:
            await asyncio.sleep(0.25)
            elsewhere |= any(each.still for each in processes)
            if process.still or process.dead:
                return "and its replica stood still or died"
        if not ended(end):
            world.problems.append(f"{process.name} held a dead peer for {DEAD:g} s")
        return "while another replica stood still" if elsewhere else "connected"

    async def part_client(self, fault: Fault) -> str:
        """Part a client from a replica."""
        client = self.world.members[fault.whom % len(self.world.members)].name
        return await self.part(client, self.replica(fault).name, fault.seconds)

    async def part(self, one: str, other: str, seconds: float) -> str:
        met = "connected" if self.network.between(one, other) else "away"
        self.network.part(one, other)
        await asyncio.sleep(seconds)
        self.network.join(one, other)
        return met

    # Links to Redis

    async def cut_link(self, fault: Fault) -> str:
        """Reset connections between a replica and Redis at any byte."""
        links = self.links(fault)
        chosen = links[fault.whom % 3 :: 2] or links
        flying = any(each.out.flying or each.peer.out.flying for each in chosen)
        for each in chosen:
            self.network.cut(each)
        return "bytes on their way" if flying else "quiet" if chosen else "away"

    async def deafen_link(self, fault: Fault) -> str:
        """Let nothing come from Redis to a replica; everything stays connected."""
        pipes: list[Pipe] = [each.peer.out for each in self.links(fault)]
        for pipe in pipes:
            pipe.hold()
        await asyncio.sleep(fault.seconds)
        for pipe in pipes:
            pipe.release()
        return "connected" if pipes else "away"

    async def part_redis(self, fault: Fault) -> str:
        """Part a replica from Redis."""
        return await self.part(self.replica(fault).name, REDIS, fault.seconds)

    # Replicas

    async def kill_replica(self, fault: Fault) -> str:
        """Kill a replica; a new one starts later."""
        replica = self.replica(fault)
        if replica.server is None:
            return "not there"
        met = "joins waiting" if self.joining(replica) else "running"
        replica.kill()
        await asyncio.sleep(fault.seconds)
        replica.start()
        return met

    def joining(self, replica: Replica) -> bool:
        server = replica.server
        return server is not None and any(
            room.entries for room in server.hub.rooms.values()
        )

    async def drain_replica(self, fault: Fault) -> str:
        """Restart a replica with a goodbye."""
        replica = self.replica(fault)
        if replica.server is None:
            return "not there"
        lives = replica.lives
        await replica.drain()
        if replica.lives != lives:
            return "killed meanwhile"
        await asyncio.sleep(fault.seconds / 4)
        if replica.process.dead and replica.lives == lives:
            replica.start()
        return "running"

    async def freeze_replica(self, fault: Fault) -> str:
        """Let a replica stand still."""
        process = self.replica(fault).process
        process.stop()
        await asyncio.sleep(fault.seconds)
        process.go_on()
        return "running"

    # Redis

    async def freeze_redis(self, fault: Fault) -> str:
        """Let Redis stand still."""
        process = self.world.redis.process
        process.stop()
        await asyncio.sleep(fault.seconds)
        process.go_on()
        return "running"

    async def flush_scripts(self, fault: Fault) -> str:
        """Let Redis forget its scripts."""
        count = len(self.world.redis.scripts)
        self.world.redis.scripts.clear()
        return "scripts known" if count else "no scripts"

    async def empty_redis(self, fault: Fault) -> str:
        """Kill Redis, and start it again with an empty memory."""
        self.world.wiped += 1
        return await self.replace_redis(fault, 0)

    async def old_redis(self, fault: Fault) -> str:
        """Kill Redis, and start it again with what was on its disk."""
        journal = self.world.redis.store.journal
        self.world.wiped += 1
        return await self.replace_redis(fault, int(len(journal) * (1 - fault.part)))

    async def replace_redis(self, fault: Fault, changes: int) -> str:
        world, old = self.world, self.world.redis
        if old.process.dead:
            return "dead"
        lost = len(old.store.journal) - changes
        world.kill(old.process)
        await asyncio.sleep(fault.seconds / 4)
        world.new_redis(old.store.at(changes))  # empty, if there are none
        return f"{'some' if lost else 'no'} writes lost"

    async def stall_replication(self, fault: Fault) -> str:
        """Let nothing come from Redis to its replica."""
        standby = self.world.redis.standby
        before = self.world.redis.waits["not confirmed"]
        standby.hold()
        await asyncio.sleep(fault.seconds)
        standby.release()
        missed = self.world.redis.waits["not confirmed"] > before
        return "publishes not confirmed" if missed else "nothing waited in vain"

    async def fail_over(self, fault: Fault) -> str:
        """Let replication lag, kill the primary, and promote its replica."""
        first = self.world.redis
        await self.lag(first, fault)
        if first is not self.world.redis or first.process.dead:
            return "another primary came"
        if first.standby.has is None:
            return "no replica"
        return await self.replace_redis(fault, first.standby.has)

    async def lag(self, redis: SimulatedRedis, fault: Fault) -> None:
        """Let the replica miss the writes of up to a second, as much as it may."""
        redis.standby.hold()
        await asyncio.sleep(5 * fault.part)
        redis.standby.holds -= 1  # not released: what it missed is lost

    async def fail_back(self, fault: Fault) -> str:
        """Promote a replica, and later the old primary again, which lived on."""
        world, first = self.world, self.world.redis
        if first.process.dead:
            return "dead"
        await self.lag(first, fault)
        has = first.standby.has
        if world.redis is not first or first.process.dead or has is None:
            return "no replica"
        lost = len(first.store.journal) - has
        second = world.new_redis(first.store.at(has))
        first.demote()
        await asyncio.sleep(min(1.0, fault.seconds))
        if world.redis is not second or second.process.dead or first.process.dead:
            return "another primary came"
        has = second.standby.has  # the first follows the second by now
        if has is None:
            return f"stays, {'some' if lost else 'no'} writes lost"
        lost_again = len(second.store.journal) - has
        first.promote(second.store.at(has))
        world.serve_redis(first)
        second.demote()
        world.kill(second.process)
        some = "some" if lost or lost_again else "no"
        return f"promoted again, {some} writes lost"


def ended(end: Transport) -> bool:
    """Return whether a server has ended a connection, or has begun to."""
    return end.over or (end.protocol is not None and end.protocol.gone)
