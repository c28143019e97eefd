"""Which Redis a room lives on: the only one, or the owner of its slot in a cluster.

A cluster spreads 16,384 slots over its primaries, and all keys and the channel of a
room are in one slot. When a primary dies and its replica is promoted, or slots move,
the rooms concerned are listened to at their new owner, and caught up with.

Redis replicates after it has answered: what was acknowledged in the last moment of a
primary may die with it. Killed with -9 beside 64 busy publishers, five times, it took
none of 9,344 acknowledged messages along (``-m chaos.failover``); behind a stalled
replication link it takes all that the replica had not got, and members are told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool, Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from labserver.errors import BrokerDown
from labserver.redis.commands import TIMEOUT, Commands, ended, pool
from labserver.redis.link import Link, channel_of

log = logging.getLogger("labserver")
LOOK_INTERVAL = 5.0  # seconds between looks at who owns what, when all is well
NAMELESS = (None, b"", b"?")  # what CLUSTER SLOTS says for a name that is not known
LOOK_PAUSE = 0.2  # seconds between looks when it is not

Heard = Callable[[str, bytes], Awaitable[None]]
Again = Callable[[str], Awaitable[None]]
Ranges = Sequence[tuple[int, int, str]]  # first slot, last slot, host:port


@dataclass(frozen=True, slots=True)
class Node:
    """One Redis server: the way out and the way in."""

    connections: ConnectionPool
    commands: Commands
    link: Link

    async def stop(self) -> None:
        await self.link.stop()
        await self.commands.stop()
        await self.connections.aclose()


class Nodes(Protocol):
    """The servers behind a URL."""

    @property
    def deaf(self) -> bool:
        """Whether what is published may not be arriving."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    @property
    def everywhere(self) -> list[Node]:
        """All of them."""

    def of(self, room: str) -> Node:
        """Return where a room lives. Raises BrokerDown if nobody knows."""


class OneNode:
    """Every room lives on one server."""

    def __init__(self, url: str, heard: Heard, again: Again) -> None:
        connections = pool(url)
        commands = Commands(connections)
        link = Link(connections, commands, heard, again)
        self.node = Node(connections, commands, link)

    @property
    def deaf(self) -> bool:
        return self.node.link.deaf

    async def start(self) -> None:
        """Nothing needs to be found out."""

    async def stop(self) -> None:
        await self.node.stop()

    @property
    def everywhere(self) -> list[Node]:
        return [self.node]

    def of(self, room: str) -> Node:
        return self.node


class ClusterNodes:
    """Each room lives on the owner of its slot."""

    def __init__(self, url: str, heard: Heard, again: Again) -> None:
        self.seeds, self.url = _seeds(url)
        self.heard, self.again = heard, again
        self.nodes: dict[str, Node] = {}  # by host:port
        self.owners: list[str] = []  # host:port by slot
        self.trouble = asyncio.Event()

    @property
    def deaf(self) -> bool:
        # A replica that hears a part of the rooms is of more use than none.
        return all(node.link.deaf for node in self.nodes.values())

    async def start(self) -> None:
        with contextlib.suppress(BrokerDown):
            await self._look()
        self.task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        await ended(self.task)
        for node in self.nodes.values():
            await node.stop()

    @property
    def everywhere(self) -> list[Node]:
        return list(self.nodes.values())

    def of(self, room: str) -> Node:
        if not self.owners or not (owner := self.owners[_slot(room)]):
            raise BrokerDown("no Redis of the cluster serves this room")
        return self.nodes[owner]

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL):
                    await self.trouble.wait()
            self.trouble.clear()
            try:
                await self._look()
            except BrokerDown:
                pass  # nobody answers: again in a moment
            except Exception:
                log.exception("what the Redis cluster says of itself is not understood")
            await asyncio.sleep(LOOK_PAUSE)

    async def _look(self) -> None:
        """Ask who owns what; rooms move to their new owners."""
        ranges = await _ranges({*self.seeds, *self.nodes}, self.url)
        owners = [""] * 16384
        for first, last, address in ranges:
            owners[first : last + 1] = [address] * (last + 1 - first)
        if owners == self.owners:
            return
        for address in {address for *_, address in ranges} - self.nodes.keys():
            log.info("Redis %s serves a part of the cluster's slots", address)
            self.nodes[address] = self._node(address, owners)
        self.owners = owners
        for node in self.nodes.values():
            for room, confirmed in list(node.link.rooms.items()):
                if (owner := owners[_slot(room)]) and self.nodes[owner] is not node:
                    with contextlib.suppress(BrokerDown):  # it subscribes when it can
                        await self.nodes[owner].link.adopt(room, confirmed)
                    with contextlib.suppress(BrokerDown):
                        await node.link.unsubscribe(room)
        for address, node in list(self.nodes.items()):
            if address in owners:
                if owners[_slot(node.link.probe)] != address:
                    node.link.probe = _probe(address, owners)
            elif not node.link.rooms:  # else they wait for their slots' next owner
                await self.nodes.pop(address).stop()

    def _node(self, address: str, owners: Sequence[str]) -> Node:
        connections, refused = pool(self.url(address)), self.trouble.set
        commands = Commands(connections, "SPUBLISH", refused)
        probe = _probe(address, owners)
        link = Link(
            connections, commands, self.heard, self.again, "SSUBSCRIBE", probe, refused
        )
        return Node(connections, commands, link)


def _probe(address: str, owners: Sequence[str]) -> str:
    """Return a room for a probe, in a slot that a server owns."""
    name = secrets.token_hex(6)
    probes = (f"probe:{name}:{number}" for number in count())
    return next(room for room in probes if owners[_slot(room)] == address)


def call(
    nodes: Nodes,
    room: str,
    source: str,
    keys: Sequence[str],
    args: Sequence[Any],
    page: int = 0,
) -> asyncio.Future[Any]:
    """Run a script where a room lives; the future fails with BrokerDown.

    The arguments are those of :meth:`Commands.call`.
    """
    try:
        return nodes.of(room).commands.call(source, keys, args, page)
    except BrokerDown as exc:
        failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        failed.set_exception(exc)
        return failed


async def check(url: str) -> None:
    """Raise BrokerDown unless a Redis answers, ValueError if it is no URL of one."""
    if _is_cluster(url):
        await _ranges(*_seeds(url))
        return
    try:
        async with asyncio.timeout(TIMEOUT), Redis.from_pool(pool(url)) as redis:
            await redis.ping()
    except (RedisError, OSError, TimeoutError) as exc:
        raise BrokerDown(type(exc).__name__) from None


async def _ranges(addresses: Iterable[str], url: Callable[[str], str]) -> Ranges:
    """Return what the first server says that is in touch with the others."""
    known = list(addresses)
    random.shuffle(known)
    why = "its state is not ok"
    for address in known:
        try:
            async with (
                asyncio.timeout(TIMEOUT),
                Redis.from_pool(pool(url(address))) as redis,
            ):
                ask: Callable[..., Awaitable[Any]] = redis.execute_command
                if b"cluster_state:ok" in await ask("CLUSTER", "INFO"):
                    slots = await ask("CLUSTER", "SLOTS")
                    return [_range(each, address) for each in slots]
        except (RedisError, OSError, TimeoutError) as exc:
            why = type(exc).__name__
    raise BrokerDown(f"no server of the Redis cluster answers ({why})")


def _slot(room: str) -> int:
    return key_slot(channel_of(room).encode())


def _range(said: Any, address: str) -> tuple[int, int, str]:
    """Return first slot, last slot and owner, of one entry of CLUSTER SLOTS.

    A server without a name is called ``""``, ``"?"`` or nothing; what is known of it
    beside the name may hold its IP address. Otherwise it is where it was asked.
    """
    first, last, (host, port, _, *more), *_ = said
    known = dict(zip(more[0][::2], more[0][1::2], strict=False)) if more else {}
    names = (host, known.get(b"ip"))
    host = next((each.decode() for each in names if each not in NAMELESS), None)
    host = host or address.rpartition(":")[0]
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"  # IPv6, as a URL has it
    return first, last, f"{host}:{port}"


def _seeds(url: str) -> tuple[list[str], Callable[[str], str]]:
    """Return the host:port of each seed, and what makes the URL of any server."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    seeds = [
        seed if re.search(r":\d*$", seed) else f"{seed}:6379"
        for seed in hosts.split(",")
    ]
    scheme = parts.scheme.removesuffix("+cluster")

    def url_of(address: str) -> str:
        return parts._replace(scheme=scheme, netloc=login + at + address).geturl()

    return seeds, url_of


def nodes(url: str, heard: Heard, again: Again) -> Nodes:
    """Return what knows the servers behind a URL, a cluster's or not."""
    return (ClusterNodes if _is_cluster(url) else OneNode)(url, heard, again)


def _is_cluster(url: str) -> bool:
    return urlsplit(url).scheme.endswith("+cluster")
