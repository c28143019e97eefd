"""Where a check runs; this one is servers of a stage in this process.

A check asks a world for servers and talks to them through sockets. What it can see only
from inside, it asks for with :meth:`World.inside`, and other worlds then skip it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from redis.asyncio import Redis
from websockets.exceptions import ConnectionClosed

from labserver.client import Client
from labserver.contract.tokens import issue
from labserver.http.door import open_web
from labserver.judge.evidence import fault
from labserver.judge.outcomes import Broken, CannotJudge, Skipped, must
from labserver.judge.peers import (
    PATIENCE,
    SECRET,
    Peer,
    Place,
    Served,
    peer,
    secret_of,
    stalled,
    until,
)
from labserver.mistakes import MISTAKES, build
from labserver.processes import faults
from labserver.processes.ports import free_port
from labserver.redis.embedded import EmbeddedRedis, embedded_redis
from labserver.server.connection import LabConnection
from labserver.server.parts import Parts
from labserver.server.server import LabServer
from labserver.settings import Settings
from labserver.stages import STAGES, included

__all__ = [
    "PATIENCE",
    "SECRET",
    "Broken",
    "CannotJudge",
    "Peer",
    "Place",
    "Served",
    "Skipped",
    "World",
    "connection_of",
    "must",
    "peer",
    "stalled",
    "until",
]

JITTER = 0.02  # seconds


@dataclass(frozen=True)
class World:
    """A stage, optionally without some parts, or with a mistake.

    Args:
        stage: Name of the last stage.
        redis: URL of a Redis, for the stages that need one.
        without: Names of stages to leave out.
        mistake: Name of the mistake, or None for the right version.
        patience: Seconds to wait for an event.
        change: Replaces parts of each server, such as one that a learner wrote.
        seed: What chance begins with.
        network: The proxy between the servers and their Redis, if there is one.
        store: Their Redis, if nobody else uses it.

    """

    stage: str
    redis: str = ""
    without: tuple[str, ...] = ()
    mistake: str | None = None
    patience: float = PATIENCE
    change: Callable[[Parts, Settings], Parts] | None = None
    seed: int = 1
    network: faults.Proxy | None = field(default=None, repr=False)
    store: EmbeddedRedis | None = field(default=None, repr=False)
    healthy: ClassVar[int] = 10  # readers beside slow ones: here they cost the server
    chance: random.Random = field(init=False, repr=False, compare=False)
    turn: int = field(init=False, default=0, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "chance", random.Random(self.seed))

    @asynccontextmanager
    async def running(self, replica: int = 0, **settings: Any) -> AsyncIterator[Served]:
        """Run a server for as long as the block lasts.

        Args:
            replica: Number of the server, where a check needs several.
            settings: As in :class:`labserver.settings.Settings`.

        Raises:
            Skipped: There can be no such server in this world.

        """
        async with self.inside(**settings) as server:
            yield server

    @asynccontextmanager
    async def inside(self, **settings: Any) -> AsyncIterator[LabServer]:
        """Run a server whose inside can be seen.

        Raises:
            Skipped: A server of this world cannot be looked into.

        """
        chosen = Settings(**{"secret": SECRET, "drain_timeout": 0.5, **settings})
        if any(each.name == "broker" for each in included(self.stage, self.without)):
            chosen = replace(chosen, redis=self.redis)
        async with LabServer(
            self.parts(chosen), chosen, self.stage, open_web=open_web
        ) as server:
            yield server

    def parts(self, settings: Settings) -> Parts:
        """Return what a server of this world is made of."""
        mistake = MISTAKES[self.mistake] if self.mistake else None
        served = mistake.name if mistake and mistake.extend else None
        parts = build(self.stage, settings, self.without, served)
        return self.change(parts, settings) if self.change else parts

    # What one world does otherwise than another

    def begin(self) -> None:
        """Begin a check, perhaps for the second time: its rooms are new ones."""
        object.__setattr__(self, "turn", self.turn + 1)

    def room(self, name: str) -> str:
        """Return a room that no other check talks in."""
        return name if self.turn < 2 else f"{name}-{self.turn}"

    def memory(self, server: Served) -> int:
        """Return the bytes of memory that a server uses."""
        raise Skipped("the memory of this process is not that of a server alone")

    def watch_output(self, *words: str) -> Callable[[], bool]:
        """Return what says whether a server printed one of these words since."""
        raise Skipped("what this process prints is not that of a server alone")

    async def break_link(self) -> None:
        """End every connection of the servers to Redis that hears."""
        fault("cut the servers' connections to Redis")
        async with Redis.from_url(self.redis, protocol=2) as redis:
            await redis.client_kill_filter(_type="pubsub")

    @asynccontextmanager
    async def frozen_redis(self) -> AsyncIterator[None]:
        """Let no byte of Redis through during the block; then reset connections."""
        if self.network is None:
            raise Skipped("there is no proxy between the servers and their Redis")
        self.network.freeze()
        fault("let no byte to or from Redis through")
        try:
            yield
        finally:
            fault("let Redis through again, over new connections")
            self.network.reset()
            self.network.thaw()

    async def empty_redis(self) -> None:
        """End Redis, and start it again with nothing in it."""
        if self.store is None:
            raise Skipped("its Redis belongs to others, too")
        fault("ended Redis, and started it empty")
        self.store.stop()
        await self.store.start()

    async def kill(self, server: Served) -> None:
        """End a server as a crash would."""
        raise Skipped("a server of this process cannot crash alone")

    @asynccontextmanager
    async def uneven_redis(self) -> AsyncIterator[None]:
        """Let commands to Redis, and answers, overtake each other, if that can be."""
        if self.network is None:
            yield
            return
        self.network.up.jitter = self.network.down.jitter = JITTER
        try:
            yield
        finally:
            self.network.up.jitter = self.network.down.jitter = 0.0

    # Clients

    def client(self, server: Served, user: str = "ann") -> Client:
        """Return the lab's reconnecting client, or the mistaken one."""
        make = MISTAKES[self.mistake].client if self.mistake else Client
        return make(server.url, issue(secret_of(server), user))

    @property
    def make_client(self) -> Callable[..., Client]:
        """What makes a client, the right one or the mistaken one.

        Raises:
            Skipped: The client is not what is judged in this world.

        """
        if self.change is not None:
            raise Skipped("a part of a server is judged here, and not the client")
        return MISTAKES[self.mistake].client if self.mistake else Client

    def includes(self, stage: str) -> bool:
        """Return whether the world's stage is this one or a later one."""
        return STAGES[self.stage].number >= STAGES[stage].number

    # Waiting

    @asynccontextmanager
    async def awaiting(self, what: str) -> AsyncIterator[None]:
        """Raise Broken if the block takes too long, or its connection is closed."""
        try:
            async with asyncio.timeout(self.patience):
                yield
        except TimeoutError:
            raise Broken(f"waited {self.patience:g} s in vain for {what}") from None
        except ConnectionClosed as exc:
            code = exc.rcvd.code if exc.rcvd else 1006
            raise Broken(f"closed with {code} before {what}") from None

    async def fill(
        self, client: Peer, room: str, count: int, size: int, meanwhile: str
    ) -> list[int]:
        """Publish many messages; the deadline is for each, and a rate limit obeyed.

        Args:
            client: Who publishes, as a member: a server may limit what is said where
                nobody is.
            room: Where.
            count: Messages.
            size: Bytes of each, about.
            meanwhile: What else happens, for the sentence when no acks come.

        """
        said = {"type": "publish", "room": room, "payload": {"pad": "x" * size}}
        seqs = list[int]()
        async with self.awaiting("the publisher's joined"):
            await client.join(room)
        while len(seqs) < count:
            async with self.awaiting(f"an ack, {meanwhile}"):
                answer = await client.ask(**said)
            if answer["type"] == "ack":
                seqs.append(answer["seq"])
                continue
            must(
                answer.get("code") == "rate_limited", f"a publish was answered {answer}"
            )
            await asyncio.sleep(0.1)
        return seqs

    async def eventually(
        self, what: str, condition: Callable[[], bool | Awaitable[bool]]
    ) -> None:
        """Return as soon as a condition holds."""
        async with self.awaiting(what):
            await until(condition)


@asynccontextmanager
async def breakable_redis() -> AsyncIterator[tuple[str, faults.Proxy, EmbeddedRedis]]:
    """Run a Redis behind a proxy. Yields its URL through the proxy, and both.

    Raises:
        RedisMissing: It cannot be found, or does not start.

    """
    port = free_port()
    async with (
        embedded_redis("--port", str(port)) as store,
        faults.proxy("127.0.0.1", port) as network,
    ):
        yield f"redis://127.0.0.1:{network.port}", network, store


def connection_of(server: LabServer, user: str) -> LabConnection:
    """Return the server's side of a user's connection."""
    (found,) = [each for each in server.connections if each.identity.user == user]
    return found
