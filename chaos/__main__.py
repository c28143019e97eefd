"""Random faults in a cluster, and the oracle's verdict on every client.

    python -m chaos --minutes 10 --seed 7

The seed decides the schedule of faults, so that a failing run can be repeated. Clients
publish with idempotency keys until they get an ack. Every client is audited: each
acknowledged message must arrive at it once and in order, or must be announced as lost.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

from redis.asyncio import Redis

from labserver.client import Backoff, Client, ServerError
from labserver.contract.tokens import issue
from labserver.errors import LabError
from labserver.judge.oracle import Oracle, disagreements
from labserver.processes.cluster import Replica, start_replica
from labserver.redis.embedded import EmbeddedRedis, embedded_redis

SECRET = "chaos is signed with this secret, as long as any"
ROOM = "lobby"
SETTLED = 10.0  # seconds after the last fault until all clients must have caught up


class World:
    """The cluster: replicas on fixed ports, and their Redis.

    Args:
        redis: The Redis that :attr:`redis_for` yields.
        dice: Random choices of victims and durations.
        confirm: Replicas of Redis that must have a message before it is acknowledged;
            None unless the run shows what that is good for.

    """

    redis_for: ClassVar[Callable[[], AbstractAsyncContextManager[Any]]] = embedded_redis
    weights: ClassVar[dict[str, int]] = {  # of the faults, by name of method
        "kill_replica": 2,
        "restart_replica": 2,
        "kill_pubsub_links": 4,
        "kill_command_links": 3,
        "freeze_redis": 1,
        "empty_redis": 1,
        "stall_client": 4,
        "drop_client": 6,
    }

    confirms: ClassVar[bool] = False  # whether replicas of Redis can confirm

    def __init__(
        self, redis: Any, dice: random.Random, confirm: int | None = None
    ) -> None:
        self.redis = redis
        self.confirm = confirm
        self.dice = dice
        self.replicas: list[Replica] = []
        self.members: list[Member] = []
        self.emptied = 0  # times that Redis lost its memory

    async def start(self, count: int) -> None:
        for _ in range(count):
            self.replicas.append(await self.start_one("0"))

    async def start_one(self, port: str) -> Replica:
        return await start_replica(
            "resume",
            *("--port", port, "--heartbeat-interval", "2", "--drain-timeout", "2"),
            *("--history-limit", "5000", "--outbox-limit", str(4 << 20)),
            *("--confirm-replicas", str(self.confirm or 0)),
            secret=SECRET,
            environment={"LAB_REDIS_URL": self.redis.url},
        )

    async def stop(self) -> None:
        await asyncio.gather(*(replica.stop() for replica in self.replicas))

    def servers(self) -> Sequence[EmbeddedRedis]:
        """Return every Redis server that is running."""
        return [self.redis]

    def forgot(self, member: Member) -> bool:
        """Return whether Redis may have lost keys, so that duplicates are no fault."""
        return self.emptied > 0  # the keys were in its memory

    async def gone(self, acknowledged: Mapping[str, str]) -> set[str]:
        """Return the acknowledged messages that Redis lost without losing all.

        Args:
            acknowledged: Messages, and the names of their users.

        """
        return set()

    # Faults

    async def kill_replica(self) -> None:
        """Kill a replica with SIGKILL; a new one starts on its port a second later."""
        await self._replace(signal.SIGKILL, pause=1.0)

    async def restart_replica(self) -> None:
        """Restart a replica: SIGTERM, then a new one on its port."""
        await self._replace(signal.SIGTERM, pause=0.0)

    async def rolling_restart(self) -> None:
        """Restart all replicas, one after the other."""
        for index in range(len(self.replicas)):
            await self._replace(signal.SIGTERM, pause=0.0, index=index)

    async def _replace(
        self, how: signal.Signals, pause: float, index: int | None = None
    ) -> None:
        if index is None:
            index = self.dice.randrange(len(self.replicas))
        old = self.replicas[index]
        await old.stop(how)
        await asyncio.sleep(pause)
        self.replicas[index] = await self.start_one(old.url.rpartition(":")[2])

    async def kill_pubsub_links(self) -> None:
        """Cut every subscribed connection to Redis."""
        await self._kill_links(_type="pubsub")

    async def kill_command_links(self) -> None:
        """Cut every connection for commands to Redis."""
        await self._kill_links(_type="normal", skipme=True)

    async def _kill_links(self, **which: Any) -> None:
        for server in self.servers():
            async with Redis.from_url(server.url) as redis:
                await redis.client_kill_filter(**which)

    async def freeze_redis(self) -> None:
        """Stop Redis for up to five seconds; its connections stay open."""
        await self.freeze_redis_for_five_seconds(self.dice.uniform(0.5, 5.0))

    async def freeze_redis_for_five_seconds(self, seconds: float = 5.0) -> None:
        """Stop Redis for ``seconds``; its connections stay open."""
        self.redis.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.redis.signal(signal.SIGCONT)

    async def empty_redis(self) -> None:
        """Kill Redis, and start it again with an empty memory."""
        self.emptied += 1
        self.redis.stop()
        await asyncio.sleep(self.dice.uniform(0.0, 1.0))
        await self.redis.start()

    async def stall_client(self) -> None:
        """Stop a client from reading for up to two seconds."""
        connection = self.dice.choice(self.members).client._connection
        if connection is not None:
            connection.transport.pause_reading()
            await asyncio.sleep(self.dice.uniform(0.2, 2.0))
            connection.transport.resume_reading()

    async def drop_client(self) -> None:
        """Abort a client's connection without a close frame."""
        connection = self.dice.choice(self.members).client._connection
        if connection is not None:
            connection.transport.abort()


@dataclass
class Member:
    """A client, with the messages that it received."""

    name: str
    client: Client
    oracle: Oracle = field(default_factory=Oracle)
    ids: Counter[str] = field(default_factory=Counter)
    told: int = 0  # times that it was told of lost messages
    epochs: set[str] = field(default_factory=set)

    async def listen(self) -> None:
        async for message in self.client:
            self.oracle.saw(message)
            match message["type"]:
                case "message":
                    self.ids[message["payload"]] += 1
                case "gap":
                    self.told += 1
                case "joined":
                    self.epochs.add(message["epoch"])
                    self.told += not message["recovered"]

    async def say(self, text: str) -> None:
        """Publish a message until there is an ack."""
        while True:
            try:
                async with asyncio.timeout(5):
                    await self.client.publish(ROOM, text, key=text)
                return
            except (ConnectionError, TimeoutError):
                await asyncio.sleep(0.05)
            except ServerError as exc:
                if exc.code not in ("broker_down", "rate_limited"):
                    raise
                await asyncio.sleep(0.05)


@dataclass
class Report:
    """The result of a run."""

    faults: Counter[str]
    acknowledged: int = 0
    gone: int = 0  # acknowledged, but Redis has them no more
    confirmed: bool = False  # whether replicas had confirmed all of these
    delivered: int = 0
    reconnects: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    unsignalled: int = 0
    seqs_given_twice: int = 0
    believers: int = 0  # clients that were not told of a new epoch
    late: int = 0  # clients that did not catch up in time
    emptied: int = 0

    @property
    def clean(self) -> bool:
        return not (
            self.lost
            + self.duplicated
            + self.reordered
            + self.unsignalled
            + self.seqs_given_twice
            + self.believers
            + self.late
            + self.gone * self.confirmed
        )

    def __str__(self) -> str:
        faults = ", ".join(f"{n} {name}" for name, n in sorted(self.faults.items()))
        return (
            f"faults       {faults or 'none'}\n"
            f"acknowledged {self.acknowledged:,} messages, {self.gone} of them gone, "
            f"delivered "
            f"{self.delivered:,} times, {self.reconnects} reconnects\n"
            f"lost {self.lost}, duplicated {self.duplicated}, reordered "
            f"{self.reordered}, unsignalled gaps {self.unsignalled}, seqs given twice "
            f"{self.seqs_given_twice}, not told of a new epoch {self.believers}, "
            f"late {self.late}\n"
            f"verdict      {'CLEAN' if self.clean else 'BROKEN'}"
        )


Schedule = Sequence[tuple[float, str]]  # seconds since the start, name of the fault


def schedule(
    seed: int, seconds: float, weights: Mapping[str, int] = World.weights
) -> list[tuple[float, str]]:
    """Return the faults of a run; the same seed gives the same faults."""
    dice = random.Random(seed)
    names = [name for name, weight in weights.items() for _ in range(weight)]
    times = itertools.accumulate(iter(lambda: dice.uniform(0.2, 2.5), None))
    return [
        (at, dice.choice(names))
        for at in itertools.takewhile(lambda at: at < seconds, times)
    ]


async def run(
    faults: Schedule,
    *,
    kind: type[World] = World,
    seed: int = 0,
    replicas: int = 3,
    clients: int = 40,
    publishers: int = 8,
    rate: float = 20.0,
    say: Callable[[str], None] = lambda text: None,
    confirm: int | None = None,
) -> Report:
    """Inject the faults into a cluster under load, and audit every client."""
    dice = random.Random(seed)
    report = Report(Counter(name for _, name in faults))
    async with AsyncExitStack() as stack:
        world = kind(await stack.enter_async_context(kind.redis_for()), dice, confirm)
        stack.push_async_callback(world.stop)
        await world.start(replicas)
        for number in range(clients):
            name = f"user-{number}"
            client = Client(
                lambda: dice.choice(world.replicas).url,
                lambda name=name: issue(SECRET, name),
                backoff=Backoff(first=0.1, cap=1.0),
            )
            world.members.append(Member(name, client))
            await stack.enter_async_context(client)
        listening = [asyncio.create_task(each.listen()) for each in world.members]
        stack.callback(lambda: [task.cancel() for task in listening])
        for member in world.members:
            await member.client.join(ROOM)
        acknowledged: dict[str, str] = {}
        speaking = True

        async def speak(member: Member) -> None:
            for number in itertools.count():
                if not speaking:
                    return
                text = f"{member.name}/{number}"
                await member.say(text)
                acknowledged[text] = member.name
                await asyncio.sleep(dice.uniform(0.5, 1.5) / rate)

        talk = [asyncio.create_task(speak(each)) for each in world.members[:publishers]]
        started = time.monotonic()
        for at, name in faults:
            await asyncio.sleep(max(0.0, started + at - time.monotonic()))
            say(f"{time.monotonic() - started:7.1f} s  {name}")
            await getattr(world, name)()
        await asyncio.sleep(1.0)
        speaking = False
        async with asyncio.timeout(60):
            await asyncio.gather(*talk)
            await world.members[0].say("the end")
        report.late = await caught_up(world)
        audit(report, world, set(acknowledged), await world.gone(acknowledged))
    return report


async def caught_up(world: World) -> int:
    """Wait until all clients have the last message; return how many do not, in time."""
    deadline = time.monotonic() + SETTLED
    while time.monotonic() < deadline:
        if all(member.ids["the end"] for member in world.members):
            return 0
        await asyncio.sleep(0.05)
    return sum(not member.ids["the end"] for member in world.members)


def audit(
    report: Report, world: World, acknowledged: set[str], gone: Set[str] = frozenset()
) -> None:
    """Compare the messages of every client with the acknowledged ones.

    A client that got a message that is gone must be told, too: others never get it.
    """
    report.acknowledged, report.gone = len(acknowledged), len(gone)
    report.confirmed = bool(world.confirm)
    report.emptied = world.emptied
    for member in world.members:
        verdict = member.oracle.verdict
        report.delivered += verdict.received
        report.reconnects += member.client.connects - 1
        report.duplicated += len(verdict.duplicated)
        report.reordered += len(verdict.reordered)
        report.unsignalled += len(verdict.unsignalled)
        # The first ``joined`` never recovers, so it counts as told, but means no loss.
        if member.told <= 1:
            report.lost += len((acknowledged - member.ids.keys()) | gone)
        if not world.forgot(member):
            report.duplicated += sum(count > 1 for count in member.ids.values())
    report.seqs_given_twice = len(
        disagreements(member.oracle for member in world.members)
    )
    known = set().union(*(member.epochs for member in world.members))
    for member in world.members:
        # A client that was connected when Redis was emptied learns the new epoch then;
        # a client that was away learns the newest one when it reconnects.
        newest = member.oracle.cursor(ROOM)
        if newest is None or newest["epoch"] not in known:
            report.believers += 1
    final: Counter[Any] = Counter(
        (member.oracle.cursor(ROOM) or {}).get("epoch") for member in world.members
    )
    report.believers += len(world.members) - max(final.values())


def main(kind: type[World], what: str) -> int:
    """Run from the command line; return the exit status, 2 if a program is missing."""
    parser = argparse.ArgumentParser("chaos", description=what)
    parser.add_argument("--minutes", type=float, default=1.0, help="default 1")
    parser.add_argument("--seed", type=int, help="default: a new one")
    parser.add_argument("--replicas", type=int, default=3, help="default 3")
    parser.add_argument("--clients", type=int, default=40, help="default 40")
    if kind.confirms:
        parser.add_argument(
            "--confirm-replicas",
            dest="confirm",
            type=int,
            metavar="N",
            help="kill primaries while replication lags; N replicas of Redis confirm a "
            "message (0: none; messages are lost, and clients must be told)",
        )
    parser.set_defaults(confirm=None)
    chosen = parser.parse_args()
    seed = chosen.seed if chosen.seed is not None else random.randrange(10_000)
    faults = schedule(seed, chosen.minutes * 60, kind.weights)
    print(
        f"seed {seed}: {len(faults)} faults in {chosen.minutes:g} minutes", flush=True
    )
    try:
        report = asyncio.run(
            run(
                faults,
                kind=kind,
                seed=seed,
                replicas=chosen.replicas,
                clients=chosen.clients,
                confirm=chosen.confirm,
                say=lambda text: print(text, flush=True),
            )
        )
    except LabError as exc:
        print(f"chaos: {exc}", file=sys.stderr)
        return 2
    print(f"{report} (seed {seed})")
    return 0 if report.clean else 1


if __name__ == "__main__":
    try:
        sys.exit(main(World, __doc__.partition("\n")[0]))
    except KeyboardInterrupt:
        sys.exit(130)
