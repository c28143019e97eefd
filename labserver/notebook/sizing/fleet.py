"""The size of a fleet from the costs on one machine, and the loss of a zone.

This is a model without a network. Chapter 10 lists what it leaves out.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from labserver.client import Backoff
from labserver.notebook.sizing.fitting import Costs, rough

BUSY = 0.6  # share of a core that may be used after the loss of a zone
FRAME = 75  # bytes around a payload on the wire: the message, the WebSocket frame
PACKET = 52  # bytes of TCP/IPv4 headers, with timestamps
STEP = 0.1  # seconds of the simulation
LONGEST = 60.0  # seconds after which the simulation ends


@dataclass(frozen=True)
class Demand:
    """The load in the busiest minute of a day.

    Args:
        connections: Total number of connections.
        room: Members of each room; each connection is in one room.
        rate: Messages a second in each room.
        payload: Bytes of a message.
        heartbeat: Seconds between two pings of a connection.
        stay: Seconds that a connection lasts.
        together: Whether a router sends all members of a room to one replica.

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
        """Bits a second to the clients, with one delivery in each packet."""
        return self.deliveries * (self.payload + FRAME + PACKET) * 8

    def copies(self, replicas: int) -> float:
        """Return how many replicas have members of a room, on average."""
        if self.together:
            return 1.0
        return replicas * (1 - (1 - 1 / replicas) ** self.room)


@dataclass(frozen=True)
class Plan:
    """A fleet, and the work of its cores.

    Attributes:
        replicas: Number of replicas, of one core each.
        redis: Redis nodes by CPU time; their own replicas are not counted.
        cores: Busy cores after the loss of a zone, by cause.
        copies: Replicas that receive each message.
        hears: Messages a second that each replica receives, after the loss of a zone.
        memory: Bytes for the connections of one replica, after the loss of a zone.

    """

    replicas: int
    redis: int
    cores: dict[str, float]
    copies: float
    hears: float
    memory: float

    @property
    def busy(self) -> float:
        """Cores that are busy after the loss of a zone."""
        return sum(self.cores.values())


def cores(costs: Costs, demand: Demand, replicas: int) -> dict[str, float]:
    """Return how many cores of the replicas are busy, by cause."""
    heard = demand.publishes * demand.copies(replicas)
    return {
        "delivering": demand.deliveries * costs.delivery,
        "receiving": heard * costs.heard.at(heard / replicas),
        "publishing": demand.publishes * costs.publish,
        "heartbeats": demand.connections / demand.heartbeat * costs.ping,
        "handshakes": demand.connections / demand.stay * costs.handshake,
        "background": replicas * costs.background,
    }


def plan(costs: Costs, demand: Demand, zones: int = 3, busy: float = BUSY) -> Plan:
    """Return the smallest fleet that serves a demand without one of its zones.

    Args:
        costs: Costs of one operation each.
        demand: The load.
        zones: Number of zones, with equally many replicas.
        busy: Share of its core that a replica may use when a zone is lost.

    """
    each = 1  # replicas in each zone
    while True:
        left = each * (zones - 1)
        used = cores(costs, demand, left)
        if sum(used.values()) <= left * busy:
            break
        # More replicas receive more copies: never jump beyond what is needed now.
        each = max(each + 1, math.ceil(sum(used.values()) / busy / (zones - 1) * 0.9))
    copies = demand.copies(left)
    return Plan(
        replicas=each * zones,
        redis=nodes(costs, demand, copies, busy),
        cores=used,
        copies=copies,
        hears=demand.publishes * copies / left,
        memory=demand.connections / left * costs.connection,
    )


def nodes(costs: Costs, demand: Demand, copies: float, busy: float) -> int:
    """Return how many Redis nodes do the work; rooms are spread evenly over them."""
    count = 1
    while True:
        rate = demand.publishes / count
        each = costs.redis_publish.at(rate) + copies * costs.redis_copy
        if rate * each <= busy:
            return count
        count += 1


def about(values: Iterable[float], unit: str) -> str:
    """Return the range of repeated measurements, as exact as it is.

    The ends are rounded to at most two digits: to 1, 2 or 5 times a power of ten that
    is at most half of the range, and never to parts of one.

    Args:
        values: The measurements, all positive.
        unit: Plural of what they count.

    """
    found = sorted(values)
    low, high = found[0], found[-1]
    least = max(1.0, 10.0 ** (math.floor(math.log10(high)) - 1))
    most = min((high - low) / 2, high / 10)
    step = max((m * least for m in (1, 2, 5) if m * least <= most), default=least)
    ends = [f"{round(each / step) * step:,.0f}" for each in (low, high)]
    return f"about {' to '.join(dict.fromkeys(ends))} {unit}"


@dataclass
class Comeback:
    """How clients of a lost zone reconnect to one of the remaining replicas.

    Attributes:
        clients: Clients that reconnect to this replica.
        asked: Handshakes that clients began, in each step.
        back: Clients that were back by the end of each step.
        wasted: Handshakes done for clients that had given up.
        refused: Handshakes that the replica refused.

    """

    clients: int
    asked: list[int] = field(default_factory=list)
    back: list[int] = field(default_factory=list)
    wasted: int = 0
    refused: int = 0

    @property
    def peak(self) -> float:
        """The highest rate of attempted handshakes, a second."""
        return max(self.asked) / STEP

    @property
    def most_back(self) -> float:
        """Seconds until 99 % of the clients were back; infinity if they never were."""
        steps = enumerate(self.back, start=1)
        enough = self.clients * 0.99
        return next((n * STEP for n, count in steps if count >= enough), math.inf)

    def __repr__(self) -> str:
        seconds = self.most_back
        soon = f"in {seconds:.0f} s" if seconds < LONGEST else f"not in {LONGEST:.0f} s"
        return (
            f"peak {rough(self.peak)} a second, 99 % back {soon}, "
            f"{rough(self.wasted)} done in vain, {rough(self.refused)} refused"
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
    admission the replica accepts every handshake and serves them in order. A client
    that has waited too long gives up and tries again later, but the replica still does
    the work for it. With admission the replica refuses at once the handshakes that it
    cannot do now.

    Args:
        clients: Clients that reconnect to this replica.
        capacity: Handshakes a second that the replica can do beside its other work.
        admission: Whether it refuses handshakes beyond its capacity.
        first: Ceiling of a client's first delay, in seconds.
        patience: Seconds that a client waits for a handshake.
        seed: Seed of the random delays.

    """
    draw = random.Random(seed).random
    result = Comeback(clients)
    backoffs = [Backoff(first=first) for _ in range(clients)]
    # (when, client, since): a client gives up waiting since ``since``; 0: it tries.
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
