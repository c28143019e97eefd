"""From the costs on one machine to a fleet: how many, and what when a zone is lost.

A model, with no network in it. What it leaves out is said in chapter 10.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass, field

from labserver.client import Backoff
from labserver.notebook.ledger import Costs

BUSY = 0.6  # share of a core that may be used when all is well but a zone is lost
FRAME = 75  # bytes around a payload on the wire: the message, the WebSocket frame
PACKET = 52  # bytes of TCP/IPv4 headers, with timestamps
STEP = 0.1  # seconds of the simulation
LONGEST = 60.0  # seconds after which it is given up


@dataclass(frozen=True)
class Demand:
    """What a day's busiest minute asks for.

    Args:
        connections: In all.
        room: Members of each; everybody is in one.
        rate: Messages a second in each room.
        payload: Bytes of a message.
        heartbeat: Seconds between two pings of a connection.
        stay: Seconds that a connection lasts.
        together: Whether a room's members are all on one replica, by routing.

    """

    connections: int = 1_000_000
    room: int = 100
    rate: float = 1.0
    payload: int = 150
    heartbeat: float = 25.0
    stay: float = 600.0
    together: bool = False

    @property
    def publishes(self) -> float:
        """Messages a second."""
        return self.connections / self.room * self.rate

    @property
    def deliveries(self) -> float:
        """Deliveries a second."""
        return self.publishes * self.room

    @property
    def bandwidth(self) -> float:
        """Bits a second to the clients, every delivery in a packet of its own."""
        return self.deliveries * (self.payload + FRAME + PACKET) * 8

    def copies(self, replicas: int) -> float:
        """Return how many replicas have members of a room, on average."""
        if self.together:
            return 1.0
        return replicas * (1 - (1 - 1 / replicas) ** self.room)


@dataclass(frozen=True)
class Plan:
    """A fleet, and what its cores do.

    Attributes:
        replicas: One core each.
        redis: Redis nodes, by processor time; one replica of each comes on top.
        cores: Cores at work, by cause.
        copies: Replicas that hear each message.
        memory: Bytes that the connections of one replica hold, a zone lost.

    """

    replicas: int
    redis: int
    cores: dict[str, float]
    copies: float
    memory: float

    def __repr__(self) -> str:
        return (
            f"{self.replicas} replicas, {self.redis} Redis nodes; each message is "
            f"heard by {self.copies:.1f} replicas, {sum(self.cores.values()):.1f} "
            f"cores at work, {self.memory / 1e6:,.0f} MB of connections in one replica"
        )


def cores(costs: Costs, demand: Demand, replicas: int) -> dict[str, float]:
    """Return the cores that are at work in the replicas, by cause."""
    return {
        "delivering": demand.deliveries * costs.delivery,
        "hearing Redis": demand.publishes * demand.copies(replicas) * costs.heard,
        "publishing": demand.publishes * costs.publish,
        "heartbeats": demand.connections / demand.heartbeat * costs.ping,
        "handshakes": demand.connections / demand.stay * costs.handshake,
        "background": replicas * costs.background,
    }


def plan(costs: Costs, demand: Demand, zones: int = 3, busy: float = BUSY) -> Plan:
    """Return the smallest fleet that carries a demand when one zone is lost.

    Args:
        costs: Of one of each.
        demand: What is asked for.
        zones: How many there are, with as many replicas each.
        busy: Share of its core that a replica may use then.

    """
    each = 1  # replicas of a zone
    while True:
        left = each * (zones - 1)
        used = cores(costs, demand, left)
        if sum(used.values()) <= left * busy:
            break
        # More replicas hear more copies: never jump beyond what is needed now.
        each = max(each + 1, math.ceil(sum(used.values()) / busy / (zones - 1) * 0.9))
    copies = demand.copies(left)
    redis = demand.publishes * (costs.redis_publish + copies * costs.redis_copy)
    return Plan(
        replicas=each * zones,
        redis=math.ceil(redis / busy),
        cores=used,
        copies=copies,
        memory=demand.connections / left * costs.connection,
    )


@dataclass
class Comeback:
    """How the clients of a lost zone came to one of the replicas that are left.

    Attributes:
        clients: How many will come to it.
        asked: Handshakes that it was asked for, in each step.
        back: Clients that were back by the end of each step.
        wasted: Handshakes that were done for clients who had given up.
        refused: Handshakes that were refused.

    """

    clients: int
    asked: list[int] = field(default_factory=list)
    back: list[int] = field(default_factory=list)
    wasted: int = 0
    refused: int = 0

    @property
    def peak(self) -> float:
        """The most handshakes that were asked for, a second."""
        return max(self.asked) / STEP

    @property
    def most_back(self) -> float:
        """Seconds until 99 % were back; infinity if they never were."""
        steps = enumerate(self.back, start=1)
        enough = self.clients * 0.99
        return next((n * STEP for n, count in steps if count >= enough), math.inf)

    def __repr__(self) -> str:
        seconds = self.most_back
        soon = f"in {seconds:.0f} s" if seconds < LONGEST else f"not in {LONGEST:.0f} s"
        return (
            f"peak {self.peak:,.0f} a second, 99 % back {soon}, "
            f"{self.wasted:,} done in vain, {self.refused:,} refused"
        )


def comeback(
    clients: int,
    capacity: float,
    *,
    admission: bool,
    first: float = 0.5,
    patience: float = 5.0,
    seed: int = 7,
) -> Comeback:
    """Simulate the clients of a lost zone at one replica, until all are back.

    Every client waits with full jitter (:class:`labserver.client.Backoff`). Without
    admission a replica takes up every handshake, first come, first served; a client
    that has waited too long goes away and comes again, and the replica does the work
    all the same. With admission it refuses at once what it cannot do now.

    Args:
        clients: That come to this replica.
        capacity: Handshakes that it can do a second, beside its other work.
        admission: Whether it refuses beyond that.
        first: Ceiling of a client's first delay, in seconds.
        patience: Seconds that a client waits for a handshake.
        seed: Of the draws.

    """
    draw = random.Random(seed).random
    result = Comeback(clients)
    backoffs = [Backoff(first=first) for _ in range(clients)]
    # (when, client, when it began to wait for what it now gives up; 0 for an attempt)
    events = [(backoffs[n].next(draw), n, 0.0) for n in range(clients)]
    heapq.heapify(events)
    queue: deque[tuple[float, int]] = deque()
    waiting: dict[int, float] = {}
    now = done = tokens = 0.0
    while done < clients and now < LONGEST:
        now += STEP
        asked = 0
        tokens = min(tokens, 1.0) + capacity * STEP
        while events and events[0][0] <= now:
            at, client, since = heapq.heappop(events)
            if since:
                if waiting.get(client) == since:
                    del waiting[client]
                    again = at + backoffs[client].next(draw)
                    heapq.heappush(events, (again, client, 0.0))
                continue
            asked += 1
            if not admission:
                waiting[client] = at
                queue.append((at, client))
                heapq.heappush(events, (at + patience, client, at))
            elif tokens >= 1:
                tokens -= 1
                done += 1
            else:
                result.refused += 1
                again = at + backoffs[client].next(draw)
                heapq.heappush(events, (again, client, 0.0))
        while queue and tokens >= 1:
            tokens -= 1
            began, client = queue.popleft()
            if waiting.get(client) == began:
                del waiting[client]
                done += 1
            else:
                result.wasted += 1
        result.asked.append(asked)
        result.back.append(int(done))
    return result
