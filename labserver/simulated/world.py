"""One simulated world: a Redis, replicas and clients, each a process of one loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import Any

from labserver.contract.tokens import issue
from labserver.judge.evidence import Event
from labserver.mistakes import build
from labserver.server.server import LabServer
from labserver.settings import Settings
from labserver.simulated.crowd import PORT, Member
from labserver.simulated.loop import BEGINNING, Process
from labserver.simulated.network import Listener, Network, NetworkLoop
from labserver.simulated.redis import Caller, SimulatedRedis
from labserver.simulated.scenario import Scenario
from labserver.simulated.slots import Cluster
from labserver.simulated.store import Store

SECRET = "a simulated world is signed with this secret"
REDIS, REDIS_PORT = "redis", 6379
WALL_US = 1_800_000_000 * 10**6
NARROW = 1500, 2**14, 2**13  # bytes of a window, of an outbox, and of Redis's buffer
INTERVAL = 4.0  # seconds between two heartbeats
DRAINS = 15.0  # seconds after which a replica that drains is killed


class SimulatedServer(LabServer):
    """A server whose listening socket is in memory."""

    def open_socket(self) -> Any:
        self.tls = None
        loop = asyncio.get_running_loop()
        assert isinstance(loop, NetworkLoop)
        return Listener(loop.network, self.process, self.host, self.port)

    process: Process


class Replica:
    """A server, in whatever process it runs now."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.lives = 0
        self.process: Process
        self.server: SimulatedServer | None = None

    def start(self) -> None:
        self.lives += 1
        world = self.world
        self.process = world.process(self.name, f"{self.name}/{self.lives}")
        self.process.start(self.serve(self.process))

    async def serve(self, process: Process) -> None:
        settings, mistake = self.world.settings, self.world.scenario.mistake
        parts = build("resume", settings, (), mistake or None)
        self.server = None
        server = SimulatedServer(parts, settings, "resume", self.name, PORT)
        server.process, server.replica = process, self.name
        async with server:
            self.server = server
            await server.drained.wait()

    def kill(self) -> None:
        self.world.kill(self.process)
        self.server = None

    async def drain(self) -> None:
        """End as after SIGTERM; return when it has ended."""
        server, process = self.server, self.process
        if server is None:
            return self.kill()
        drained = process.start(server.drain(2.0))
        await asyncio.wait([drained], timeout=DRAINS)
        if process is self.process and not process.dead:
            self.kill()


class World:
    """A world that is running.

    Args:
        loop: Its loop.
        scenario: What happens in it.

    """

    def __init__(self, loop: NetworkLoop, scenario: Scenario) -> None:
        self.loop, self.scenario = loop, scenario
        self.network = Network(loop, scenario.seed)
        if scenario.narrow:
            self.network.window = NARROW[0]
        self.events: list[Event] = []
        self.problems: list[str] = []  # that faults found
        self.checksum = 0  # of all that the clients and Redis got
        self.met: Counter[str] = Counter()  # faults, by the state that they met
        self.primaries: list[SimulatedRedis] = []  # all, also those that are dead
        self.wiped = 0  # times that Redis lost writes with all of its replicas
        self.stored: Store | Cluster  # what a client would read now
        url = f"redis://{REDIS}:{REDIS_PORT}"
        if scenario.cluster:
            self.cluster = self.stored = Cluster(self)
            url = self.cluster.url
        else:
            self.redis = self.new_redis(Store(self.clock))
        self.epochs = self.stored.epochs
        self.settings = Settings(
            secret=SECRET,
            redis=url,
            heartbeat_interval=INTERVAL,
            outbox_limit=NARROW[1] if scenario.narrow else 2**18,
            stuck_timeout=5.0,
            drain_timeout=2.0,
            handshake_timeout=5.0,
            history_limit=scenario.history,
            connection_limit=1000,
            confirm_replicas=int(scenario.confirm),
        )
        self.rooms = [f"room-{number}" for number in range(scenario.rooms)]
        names = [f"replica-{number + 1}" for number in range(scenario.replicas)]
        self.replicas = [Replica(self, name) for name in names]
        self.members = [self.member(number) for number in range(scenario.clients)]

    # Its parts

    def clock(self) -> int:
        """Return Redis's time in microseconds."""
        return WALL_US + round(self.loop.time() * 10**6)

    def process(self, name: str, seed: str) -> Process:
        process = Process(self.loop, name, f"{self.scenario.seed}/{seed}")
        self.loop.processes.append(process)
        return process

    def new_redis(self, store: Store) -> SimulatedRedis:
        """Start a Redis with these data; it becomes the primary."""
        redis = SimulatedRedis(self.redis_process(REDIS), store)
        self.serve_redis(redis)
        return redis

    def serve_redis(self, redis: SimulatedRedis) -> None:
        """Send new connections to a Redis."""
        self.redis, self.stored = redis, redis.store
        self.listen(redis)

    def redis_process(self, host: str) -> Process:
        """Return a new process for a Redis at a host."""
        number = sum(each.name == host for each in self.loop.processes)
        return self.process(host, f"{host}/{number}")

    def listen(self, redis: SimulatedRedis) -> None:
        """Let connections to its host lead to a Redis from now on.

        Nobody asks the Redis: a late one that stood still must not get them back.
        """
        if self.scenario.narrow:
            redis.output_limit = NARROW[2]
        if redis not in self.primaries:
            self.primaries.append(redis)
        host = redis.process.name
        listener = Listener(self.network, redis.process, host, REDIS_PORT)
        listener.begin(partial(Caller, redis))

    def member(self, number: int) -> Member:
        process = self.process(f"client-{number + 1}", f"client-{number + 1}")

        def url() -> str:
            return f"ws://{process.dice.choice(self.replicas).name}:{PORT}"

        def token(user: str) -> str:
            return issue(SECRET, user)

        def serving(name: str) -> Process:
            return next(each.process for each in self.replicas if each.name == name)

        rooms, pause = self.rooms, self.scenario.pause
        return Member(process, number, rooms, url, token, serving, self.note, pause)

    def kill(self, process: Process) -> None:
        process.kill()
        self.network.bury(process)

    # What happens

    def note(self, who: str, way: str, text: str) -> None:
        at = round(self.loop.time() - BEGINNING, 6)
        self.events.append(Event(at, who, way, text))

    def fault(self, text: str) -> None:
        self.note("the judge", "did", text)

    @property
    def trace(self) -> str:
        """All that happened, one line for each event."""
        lines = [f"{e.at:.6f} {e.who} {e.way} {e.text}" for e in self.events]
        lines.append(f"{self.loop.time():.9f} {self.loop.planned} {self.checksum:08x}")
        return "\n".join(lines) + "\n"
