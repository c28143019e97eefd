"""A simulated Redis Cluster: three primaries with a replica each, and their slots.

The servers of a cluster may disagree. A primary that stood still, or was parted from
the others, goes on to serve until it hears that its replica has taken over: what it
acknowledges meanwhile is lost. A server redirects clients by what it knows itself
(``MOVED``), and refuses when it reaches no majority (``CLUSTERDOWN``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from redis.crc import key_slot

from labserver.simulated.loop import Process
from labserver.simulated.redis import Caller, SimulatedRedis
from labserver.simulated.store import Refused, Store, Value

if TYPE_CHECKING:
    from labserver.simulated.world import World

SHARDS = 3
PORT = 6379
SLOTS = 16384
NODE_TIMEOUT = 0.7  # seconds after which the others assume that a server is dead
ELECTION = 0.5  # seconds at most until they have agreed on its replica
GOSSIP = 0.1  # seconds between two looks of the servers at each other


@dataclass(frozen=True)
class View:
    """Who serves what, as one server knows it.

    Attributes:
        ranges: First slot, last slot and number of the shard.
        primaries: Host of each shard's primary.

    """

    ranges: tuple[tuple[int, int, int], ...]
    primaries: tuple[str, ...]

    def shard(self, slot: int) -> int:
        return next(who for first, last, who in self.ranges if first <= slot <= last)

    def owner(self, slot: int) -> str:
        return self.primaries[self.shard(slot)]

    def moved(self, slot: int, shard: int) -> View:
        """Return the view after a slot was given to another shard."""

        def cut() -> Iterator[tuple[int, int, int]]:
            for first, last, who in self.ranges:
                if first <= slot <= last:
                    parts = (first, slot - 1, who), (slot, slot, shard)
                    yield from (each for each in parts if each[0] <= each[1])
                    first = slot + 1
                if first <= last:
                    yield first, last, who

        return replace(self, ranges=tuple(cut()))

    def promoted(self, shard: int, host: str) -> View:
        names = [*self.primaries[:shard], host, *self.primaries[shard + 1 :]]
        return replace(self, primaries=tuple(names))


class Node(SimulatedRedis):
    """One server of a cluster.

    Args:
        process: The process in which it runs; its name is the host.
        store: Its data, if it is a primary.
        shard: Number of its shard.
        cluster: The others.

    Attributes:
        view: What it knows of the cluster.
        heard: When it last reached a majority of the primaries.
        ok: Whether it believes that the cluster works.
        followed: Whether its replica gets what it writes.
        migrating: A slot that is being moved away, and where to.

    """

    kind = b"smessage"

    def __init__(
        self, process: Process, store: Store, shard: int, cluster: Cluster
    ) -> None:
        super().__init__(process, store)
        self.host, self.shard, self.cluster = process.name, shard, cluster
        self.view = cluster.view
        self.primary = self.view.primaries[shard] == self.host
        self.heard, self.ok, self.followed = process.loop.time(), True, True
        self.migrating: tuple[int, str] | None = None

    def execute(self, caller: Caller, name: bytes, args: Sequence[bytes]) -> Any:
        match name, args:
            case b"CLUSTER", [b"INFO"]:
                return b"cluster_state:%s\r\n" % (b"ok" if self.ok else b"fail")
            case b"CLUSTER", [b"SLOTS"]:
                return list(self.slots())
            case b"EVALSHA", [_, count, *rest]:
                self.check(rest[: int(count)])
            case b"SSUBSCRIBE", [channel]:
                self.check([channel], subscribes=True)
        return super().execute(caller, name, args)

    def slots(self) -> Iterator[list[Any]]:
        for first, last, shard in self.view.ranges:
            host = self.view.primaries[shard].encode()
            yield [first, last, [host, PORT, b"%040x" % shard, []]]

    def check(self, keys: Sequence[bytes], subscribes: bool = False) -> None:
        """Raise Refused unless this server has the slot of these keys."""
        if not keys:
            return
        slot, *others = {key_slot(key) for key in keys}
        if others:
            raise Refused("CROSSSLOT Keys in request don't hash to the same slot")
        if not self.ok:
            raise Refused("CLUSTERDOWN The cluster is down")
        # A replica takes subscriptions, too: its primary forwards messages.
        mine = subscribes and self.view.shard(slot) == self.shard
        if (owner := self.view.owner(slot)) != self.host and not mine:
            raise Refused(f"MOVED {slot} {owner}:{PORT}")
        if self.migrating and self.migrating[0] == slot and not subscribes:
            there = [self.store.get(key) is not None for key in keys]
            if not any(there):
                raise Refused(f"ASK {slot} {self.migrating[1]}:{PORT}")
            if not all(there):
                raise Refused("TRYAGAIN Multiple keys request during rehashing of slot")

    def publish(self, channel: bytes, data: bytes) -> int:
        if self.primary:
            self.cluster.forward(self, channel, data)
        return super().publish(channel, data)

    def learn(self, view: View) -> None:
        """Hear of changes: give up what other servers have now."""
        before, self.view = self.view, view
        if self.primary and view.primaries[self.shard] != self.host:
            self.primary = False
            for caller in list(self.callers):
                if caller.waits is not None:
                    caller.transport.abort()  # as after UNBLOCKED
        if self.migrating and view.owner(self.migrating[0]) != self.host:
            self.migrating = None
        for channel in list(self.channels):
            slot = key_slot(channel)
            if before.owner(slot) != view.owner(slot):
                for caller in list(self.channels.get(channel, ())):
                    caller.subscribe(b"SUNSUBSCRIBE", channel)


class Cluster:
    """The servers of a cluster, and what they agree on after a while.

    Args:
        world: Its world.

    Attributes:
        view: What a majority of the primaries has agreed on.
        nodes: By host.
        apart: How many faults part a host from all other servers of the cluster.
        copied: By shard: length of the journal after keys were moved there. They are
            gone if its primary dies before its replica has them.

    """

    def __init__(self, world: World) -> None:
        self.world, self.loop = world, world.loop
        self.dice = self.loop.judge.dice
        hosts = [f"redis-{number + 1}" for number in range(2 * SHARDS)]
        borders = [SLOTS * number // SHARDS for number in range(SHARDS + 1)]
        ranges = [(borders[n], borders[n + 1] - 1, n) for n in range(SHARDS)]
        self.view = View(tuple(ranges), tuple(hosts[:SHARDS]))
        self.pairs = list(zip(hosts[:SHARDS], hosts[SHARDS:], strict=True))
        self.apart = dict.fromkeys(hosts, 0)
        self.nodes: dict[str, Node] = {}
        first = Store(world.clock)
        self.epochs, self.tops = first.epochs, first.tops
        for host in hosts:
            self.start(host, first.at(0))
        self.missed = [self.loop.time()] * SHARDS  # since when a primary is away
        self.copied = [0] * SHARDS
        self.tick()

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{host}:{PORT}" for host in self.nodes)

    def start(self, host: str, store: Store) -> Node:
        """Start a server, also again after its death."""
        shard = next(n for n, pair in enumerate(self.pairs) if host in pair)
        node = Node(self.world.redis_process(host), store, shard, self)
        self.nodes[host] = node
        self.world.listen(node)
        if not node.primary:  # it has nothing: a copy of everything comes first
            self.primary(shard).follow()
            self.primary(shard).followed = True
        return node

    def primary(self, shard: int) -> Node:
        return self.nodes[self.view.primaries[shard]]

    def replica(self, shard: int) -> Node:
        one, other = self.pairs[shard]
        return self.nodes[other if self.view.primaries[shard] == one else one]

    def of(self, key: bytes) -> Node:
        return self.primary(self.view.shard(key_slot(key)))

    def get(self, key: bytes) -> Any:
        """Return the value that a client would read."""
        return self.of(key).store.get(key)

    def reaches(self, node: Node) -> bool:
        """Return whether the other servers hear a server."""
        process = node.process
        return not (process.dead or process.still or self.apart[node.host])

    def forward(self, node: Node, channel: bytes, data: bytes) -> None:
        """Bring a message to those that subscribed at the other server of a shard."""
        one, other = self.pairs[node.shard]
        peer = self.nodes[other if node.host == one else one]
        if channel in peer.channels and self.reaches(node) and self.reaches(peer):
            late = self.loop.time() + self.world.network.latency()
            self.loop.at(late, partial(peer.process.poll, peer.publish, channel, data))

    # Moving a slot

    def keys(self, node: Node, slot: int) -> list[bytes]:
        return [key for key in node.store.values if key_slot(key) == slot]

    def give(self, giver: Node, taker: Node, key: bytes) -> None:
        """Move a key (``MIGRATE``). It waits for no replica."""
        if (value := giver.store.get(key)) is not None:
            _write(taker, key, value, giver.store.expiry.get(key))
            _write(giver, key, None, None)
            self.copied[taker.shard] = len(taker.store.journal)

    def drop(self, node: Node, slot: int) -> None:
        for key in self.keys(node, slot):
            _write(node, key, None, None)

    # What they do all the time

    def tick(self) -> None:
        """Let the servers look at each other."""
        now, shards = self.loop.time(), range(SHARDS)
        away = [not self.reaches(self.primary(each)) for each in shards]
        majority = sum(away) <= SHARDS // 2
        for node in self.nodes.values():
            reached = self.reaches(node)
            if reached and majority:
                node.heard = now
            if not node.process.still:
                node.ok = now - node.heard <= NODE_TIMEOUT
            if reached and node.view is not self.view and self.dice.random() < 0.5:
                node.process.poll(node.learn, self.view)
        for shard in shards:
            if not away[shard]:
                self.missed[shard] = now
            self.replicate(shard)
            late = now - self.missed[shard] - NODE_TIMEOUT
            if late > 0 and majority and self.dice.random() < late / ELECTION:
                self.promote(shard)
        self.loop.at(now + GOSSIP, self.tick)

    def replicate(self, shard: int) -> None:
        """Note whether the replica of a shard gets what its primary writes."""
        primary, replica = self.primary(shard), self.replica(shard)
        both = self.reaches(primary) and self.reaches(replica)
        followed = both and replica.view.primaries[shard] == primary.host
        if followed != primary.followed:
            primary.followed = followed
            (primary.standby.release if followed else primary.standby.hold)()

    def promote(self, shard: int) -> None:
        """Let a replica take over, if it has a copy."""
        old, new = self.primary(shard), self.replica(shard)
        has = old.standby.has
        if has is None or not self.reaches(new):
            return
        lost = len(old.store.journal) - has
        self.world.wiped += has < self.copied[shard]
        self.world.met[
            f"cluster: a takeover, {'some' if lost else 'no'} writes lost"
        ] += 1
        self.world.fault(f"{new.host} takes over from {old.host}")
        self.view = self.view.promoted(shard, new.host)
        new.promote(old.store.at(has))
        new.followed = False
        new.standby.hold()  # nobody follows it yet
        new.learn(self.view)
        self.copied[shard] = 0


def _write(node: Node, key: bytes, value: Value | None, expiry: int | None) -> None:
    node.store.put(key, value, expiry)
    node.store.changed(key)
    node.store.commit()
    node.standby.written()
