"""The Redis server of each room: the only one, or the owner of its slot in a cluster.

A cluster spreads 16,384 slots over its primaries. All keys and the channel of a room
are in one slot. When a replica is promoted, or slots move, the rooms of those slots are
subscribed at their new owner, and caught up with.

Redis answers before it replicates: a message that was acknowledged just before its
primary died may be lost. In five runs, a primary beside 64 busy publishers was killed
with -9, and none of 9,344 acknowledged messages was lost. When replication had stalled,
every message that the replica had not received is lost, and the members are told.
With ``--confirm-replicas 1`` such a message is not acknowledged.

Replicas confirm publishes only. These have a connection of their own then, so that a
replica that is away does not delay joins.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
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
from labserver.server.tasks import Failures, keep

log = logging.getLogger("labserver")
LOOK_INTERVAL = 5.0  # seconds between looks at the owners of slots, when all is well
LOOK_PAUSE = 0.2  # seconds between looks after trouble
NAMELESS = (None, b"", b"?")  # CLUSTER SLOTS for a server whose name is not known

Heard = Callable[[str, bytes], Awaitable[None]]
Again = Callable[[Sequence[str]], Coroutine[Any, Any, None]]
Ranges = Sequence[tuple[int, int, str]]  # first slot, last slot, host:port


@dataclass(frozen=True, slots=True)
class Node:
    """One Redis server: commands go out, and the link brings messages in.

    Attributes:
        publishes: The commands that publish messages.

    """

    connections: ConnectionPool
    commands: Commands
    link: Link
    publishes: Commands

    async def stop(self) -> None:
        await self.link.stop()
        await self.commands.stop()
        await self.publishes.stop()
        await self.connections.aclose()


class Nodes(Protocol):
    """The servers behind a URL."""

    @property
    def deaf(self) -> bool:
        """Whether published messages may not be arriving."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    @property
    def everywhere(self) -> list[Node]:
        """All servers."""

    def of(self, room: str) -> Node:
        """Return the server of a room. Raises BrokerDown if it is not known."""


class OneNode:
    """One server has all rooms.

    Args:
        url: URL of the server.
        heard: See :class:`Link`.
        again: See :class:`Link`.
        confirm: See :class:`Commands`; for publishes.

    """

    def __init__(
        self, url: str, failures: Failures, heard: Heard, again: Again, confirm: int
    ) -> None:
        connections = pool(url)
        commands = publishes = Commands(connections, failures)
        if confirm:
            publishes = Commands(connections, failures, confirm=confirm)
        link = Link(connections, commands, failures, heard, again)
        self.node = Node(connections, commands, link, publishes)

    @property
    def deaf(self) -> bool:
        return self.node.link.deaf

    async def start(self) -> None:
        """Do nothing: the server is known."""

    async def stop(self) -> None:
        await self.node.stop()

    @property
    def everywhere(self) -> list[Node]:
        return [self.node]

    def of(self, room: str) -> Node:
        return self.node


class ClusterNodes:
    """Each room is on the server that owns its slot.

    Args:
        url: URL with the host and port of some servers of the cluster.
        heard: See :class:`Link`.
        again: See :class:`Link`.
        confirm: See :class:`Commands`; for publishes.

    """

    def __init__(
        self, url: str, failures: Failures, heard: Heard, again: Again, confirm: int
    ) -> None:
        self.seeds, self.url = seeds_of(url)
        self.confirm = confirm
        self.failures = failures
        self.heard, self.again = heard, again
        self.nodes: dict[str, Node] = {}  # by host:port
        self.owners: list[str] = []  # host:port by slot
        self.trouble = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    @property
    def deaf(self) -> bool:
        # A replica that hears only some of the rooms is better than no replica.
        return all(node.link.deaf for node in self.nodes.values())

    async def start(self) -> None:
        with contextlib.suppress(BrokerDown):
            await self._look()
        self.task = keep("nodes", self._watch, self.failures)

    async def stop(self) -> None:
        if self.task is not None:
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
            with contextlib.suppress(BrokerDown):  # no server answers: look again soon
                await self._look()
            await asyncio.sleep(LOOK_PAUSE)

    async def _look(self) -> None:
        """Ask which server owns which slots; subscribe rooms at their new owners.

        Raises:
            BrokerDown: No server answers.

        """
        ranges = await _ranges({*self.seeds, *self.nodes}, self.url)
        owners = [""] * 16384
        for first, last, address in ranges:
            owners[first : last + 1] = [address] * (last + 1 - first)
        if owners == self.owners:
            return
        serving = {address for *_, address in ranges}
        for address in sorted(serving - self.nodes.keys()):
            log.info("Redis %s serves a part of the cluster's slots", address)
            self.nodes[address] = self._node(address, owners)
        self.owners = owners
        for node in self.nodes.values():
            for room, confirmed in list(node.link.rooms.items()):
                if room not in node.link.rooms:
                    continue  # it was let go of while others were subscribed
                if (owner := owners[_slot(room)]) and self.nodes[owner] is not node:
                    with contextlib.suppress(BrokerDown):  # subscribes once connected
                        await self.nodes[owner].link.adopt(room, confirmed)
                    with contextlib.suppress(BrokerDown):
                        await node.link.unsubscribe(room)
        for address, node in list(self.nodes.items()):
            if address in owners:
                if owners[_slot(node.link.probe)] != address:
                    node.link.probe = _probe(address, owners)
            elif not node.link.rooms:  # otherwise rooms wait for their next owner
                await self.nodes.pop(address).stop()

    def _node(self, address: str, owners: Sequence[str]) -> Node:
        connections, refused = pool(self.url(address)), self.trouble.set
        commands = publishes = Commands(connections, self.failures, "SPUBLISH", refused)
        if self.confirm:
            publishes = Commands(
                connections, self.failures, "SPUBLISH", refused, self.confirm
            )
        probe = _probe(address, owners)
        link = Link(
            *(connections, commands, self.failures, self.heard, self.again),
            *("SSUBSCRIBE", probe, refused),
        )
        return Node(connections, commands, link, publishes)


def _probe(address: str, owners: Sequence[str]) -> str:
    """Return the name of a room for probes, in a slot that ``address`` owns."""
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
    publishes: bool = False,
) -> asyncio.Future[Any]:
    """Run a script on the server of a room.

    Args:
        publishes: Whether it publishes messages, which replicas may have to confirm.

    The other arguments are those of :meth:`Commands.call`. The future that is returned
    fails with BrokerDown, also where the server is not known.
    """
    try:
        node = nodes.of(room)
        commands = node.publishes if publishes else node.commands
        return commands.call(source, keys, args, page)
    except BrokerDown as exc:
        failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        failed.set_exception(exc)
        return failed


async def _ranges(addresses: Iterable[str], url: Callable[[str], str]) -> Ranges:
    """Ask the servers in random order for the owners of slots.

    Returns:
        The answer of the first server that says the cluster's state is ok.

    Raises:
        BrokerDown: There is no such server.

    """
    known = sorted(addresses)
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
        except (RedisError, OSError, TimeoutError, RuntimeError) as exc:
            # RuntimeError: a connection that has just ended is written to (uvloop).
            why = type(exc).__name__
    raise BrokerDown(f"no server of the Redis cluster answers ({why})")


def _slot(room: str) -> int:
    return key_slot(channel_of(room).encode())


def _range(said: Any, address: str) -> tuple[int, int, str]:
    """Return first slot, last slot and owner of one entry of CLUSTER SLOTS.

    The name of a server may be unknown: ``""``, ``"?"`` or nil. Then the metadata of
    the entry may have its IP address. Otherwise it is the server that answered, at
    ``address``.
    """
    first, last, (host, port, _, *more), *_ = said
    known = dict(zip(more[0][::2], more[0][1::2], strict=False)) if more else {}
    names = (host, known.get(b"ip"))
    host = next((each.decode() for each in names if each not in NAMELESS), None)
    host = host or address.rpartition(":")[0]
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"  # IPv6, as a URL has it
    return first, last, f"{host}:{port}"


def seeds_of(url: str) -> tuple[list[str], Callable[[str], str]]:
    """Return host:port of each server in a URL, and a function.

    The function returns the URL of any server of the cluster for its host:port.
    """
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


def nodes(
    url: str, failures: Failures, heard: Heard, again: Again, confirm: int = 0
) -> Nodes:
    """Return the servers behind a URL: a cluster, or a single one.

    Args:
        url: URL of Redis.
        failures: Counts the times that tasks fail.
        heard: See :class:`Link`.
        again: See :class:`Link`.
        confirm: Replicas of Redis that must have a message before it is acknowledged.

    """
    kind = ClusterNodes if is_cluster(url) else OneNode
    return kind(url, failures, heard, again, confirm)


def is_cluster(url: str) -> bool:
    return urlsplit(url).scheme.endswith("+cluster")
