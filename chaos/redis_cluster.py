"""A Redis Cluster of real processes: three primaries, each with a replica."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from redis.asyncio import Redis

from labserver.judge.world import until
from labserver.processes.ports import free_ports
from labserver.redis.embedded import EmbeddedRedis

PRIMARIES = 3
NODE_TIMEOUT = 700  # ms after which the others assume that a server is dead
GREETING = 3.0  # seconds until the servers must know each other
PATIENCE = 20.0  # seconds until the cluster must agree


class ClusterServer(EmbeddedRedis):
    """One server of a cluster; it listens on a port as well."""

    def __init__(self, folder: Path, port: int, bus: int) -> None:
        folder.mkdir()
        super().__init__(
            folder,
            *("--port", str(port), "--cluster-port", str(bus)),
            *("--cluster-enabled", "yes"),
            *("--cluster-node-timeout", str(NODE_TIMEOUT)),
            *("--cluster-replica-validity-factor", "0"),
            *("--cluster-require-full-coverage", "no"),
            *("--repl-diskless-sync-delay", "0"),
        )
        self.port, self.bus = port, bus

    async def ask(self, *command: object) -> str:
        async with Redis.from_url(self.url, decode_responses=True) as redis:
            return str(await redis.execute_command(*command))


class RedisCluster:
    """Six servers; ``primaries[i]`` is followed by ``replicas[i]`` at first."""

    def __init__(self, servers: list[ClusterServer]) -> None:
        self.servers = servers
        self.primaries, self.replicas = servers[:PRIMARIES], servers[PRIMARIES:]

    @property
    def url(self) -> str:
        seeds = ",".join(f"127.0.0.1:{each.port}" for each in self.servers)
        return f"redis+cluster://{seeds}"

    async def form(self) -> None:
        for number, server in enumerate(self.primaries):
            slots = (16384 * number // PRIMARIES, 16384 * (number + 1) // PRIMARIES - 1)
            await server.ask("CLUSTER", "ADDSLOTSRANGE", *slots)
            await server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        async with asyncio.timeout(PATIENCE):
            await until(self.meet)
        for primary, replica in zip(self.primaries, self.replicas, strict=True):
            name = await primary.ask("CLUSTER", "MYID")
            await replica.ask("CLUSTER", "REPLICATE", name)
        for replica in self.replicas:
            await self.agree(
                lambda text: "'master_link_status': 'up'" in text, replica, "INFO"
            )
        await self.agree(lambda text: text.count("slave ") == len(self.replicas))
        await self.agree(lambda t: "cluster_state:ok" in t, None, "CLUSTER INFO")

    async def meet(self) -> bool:
        """Make all servers know each other; return False if one did not in time."""
        first = self.servers[0]
        for server in self.servers[1:]:
            await server.ask("CLUSTER", "MEET", "127.0.0.1", first.port, first.bus)

        def complete(text: str) -> bool:
            known = text.count(" connected")
            return known == len(self.servers) and "handshake" not in text

        try:
            await self.agree(complete, within=GREETING)
        except TimeoutError:
            return False
        return True

    async def agree(
        self,
        holds: Callable[[str], bool],
        server: ClusterServer | None = None,
        command: str = "CLUSTER NODES",
        within: float = PATIENCE,
    ) -> None:
        """Wait until the answer of every running server (or of one) holds."""

        async def said(each: ClusterServer) -> bool:
            return holds(await each.ask(*command.split()))

        async with asyncio.timeout(within):
            for each in [server] if server else self.living:
                await until(partial(said, each))

    @property
    def living(self) -> list[ClusterServer]:
        return [each for each in self.servers if each.process is not None]

    async def owner(
        self, room: str, asked: ClusterServer | None = None
    ) -> ClusterServer:
        """Return the primary of a room's slot, according to one server."""
        asked = asked or self.living[0]
        slot = int(await asked.ask("CLUSTER", "KEYSLOT", f"lab:{{{room}}}"))
        async with Redis.from_url(asked.url) as redis:
            for first, last, (_, port, *_), *_ in await redis.execute_command(
                "CLUSTER SLOTS"
            ):
                if first <= slot <= last:
                    return next(each for each in self.servers if each.port == port)
        raise LookupError(room)

    async def move(
        self, source: ClusterServer, target: ClusterServer, room: str
    ) -> None:
        """Move the slot of a room, as ``redis-cli --cluster reshard`` does."""
        slot = await source.ask("CLUSTER", "KEYSLOT", f"lab:{{{room}}}")
        giver = await source.ask("CLUSTER", "MYID")
        taker = await target.ask("CLUSTER", "MYID")
        await target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", giver)
        await source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", taker)
        async with Redis.from_url(source.url, decode_responses=True) as redis:
            ask = redis.execute_command
            while keys := await ask("CLUSTER", "GETKEYSINSLOT", slot, 1000):
                where = ("127.0.0.1", target.port, "", 0, 5000)
                await ask("MIGRATE", *where, "KEYS", *keys)
        for server in (target, source):
            await server.ask("CLUSTER", "SETSLOT", slot, "NODE", taker)


@asynccontextmanager
async def redis_cluster() -> AsyncIterator[RedisCluster]:
    """Run a new cluster until the block ends."""
    ports = free_ports(4 * PRIMARIES)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="labcluster-"))
        servers = [
            ClusterServer(Path(folder) / str(port), port, bus)
            for port, bus in zip(ports[::2], ports[1::2], strict=True)
        ]
        for server in servers:
            stack.callback(server.stop)
        starts = (server.start() for server in servers)
        # One that fails does not leave the others starting while they are stopped.
        for problem in await asyncio.gather(*starts, return_exceptions=True):
            if problem is not None:
                raise problem
        cluster = RedisCluster(servers)
        await cluster.form()
        yield cluster
