"""A simulated Redis: real commands over the wire, and the lab's real scripts.

It has what the lab uses: scripts, publish and subscribe, an output buffer that may
overflow, roles, and a replica whose confirmation can be waited for. It can lose its
memory, start from an old state, stand still, and be replaced by that replica.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import hiredis

from labserver.simulated import lua
from labserver.simulated.loop import Process
from labserver.simulated.replication import Standby
from labserver.simulated.store import WRITES, Refused, Store

READONLY = "READONLY You can't write against a read only replica."


class SimulatedRedis:
    """One Redis server.

    Args:
        process: The process in which it runs.
        store: Its data.

    """

    kind = b"message"  # what a subscriber gets

    def __init__(self, process: Process, store: Store) -> None:
        self.process, self.store = process, store
        self.run_id = b"%040x" % process.dice.getrandbits(160)
        self.replid = b"%040x" % process.dice.getrandbits(160)
        self.primary = True
        self.scripts: dict[bytes, bytes] = {}  # by SHA1
        self.channels: dict[bytes, dict[Caller, None]] = {}
        self.callers: dict[Caller, None] = {}
        self.output_limit = 2**20  # bytes that may wait for a subscriber
        self.overflows = 0  # subscribers on which it hung up
        self.promotions = 0
        self.waits = Counter[str]()  # of those that asked for confirmations, by answer
        self.follow()

    def follow(self) -> None:
        """Get a new replica, which has nothing yet."""
        self.standby = Standby(
            self.process.loop,
            self.store,
            f"{self.process.seed}/{self.promotions}",
            partial(self.process.poll, self.confirmed),
        )

    def confirmed(self) -> None:
        """Answer to those that waited for what the replica has now."""
        for caller in list(self.callers):
            if caller.waits is not None and self.replicated(caller):
                caller.waited()

    def replicated(self, caller: Caller) -> int:
        """Return how many replicas have what a caller wrote: 0 or 1."""
        told = self.standby.told
        return int(told is not None and told >= caller.wrote)

    def promote(self, store: Store | None = None) -> None:
        """Become the primary, with other data if they are given."""
        self.primary = True
        self.store = store or self.store
        self.promotions += 1
        self.replid = b"%040x" % self.process.dice.getrandbits(160)
        self.follow()

    def demote(self) -> None:
        """Become a replica, as a sentinel asks for it; hang up on everybody."""
        self.primary = False
        for caller in list(self.callers):
            caller.transport.abort()

    def hang_up(self) -> int:
        """Hang up on subscribers (``CLIENT KILL TYPE pubsub``); return how many."""
        subscribed = [each for each in self.callers if each.channels]
        for each in subscribed:
            each.transport.abort()
        return len(subscribed)

    # Commands

    def execute(self, caller: Caller, name: bytes, args: Sequence[bytes]) -> Any:
        """Run one command of a caller; return its reply.

        Raises:
            Refused: It is refused.

        """
        match name, args:
            case ((b"SUBSCRIBE" | b"UNSUBSCRIBE" | b"SSUBSCRIBE" | b"SUNSUBSCRIBE"), _):
                for channel in args:
                    caller.subscribe(name, channel)
                return ()
            case b"EVALSHA", [digest, count, *rest]:
                if digest not in self.scripts:
                    raise Refused("NOSCRIPT No matching script.")
                keys, given = rest[: int(count)], rest[int(count) :]
                return lua.run(self.scripts[digest], keys, given, self.call)
            case b"SCRIPT", [_, source]:
                self.scripts[lua.sha(source)] = source
                return lua.sha(source)
            case b"CLIENT", [b"KILL", *_]:
                return self.hang_up()
            case b"CLIENT" | b"SELECT", _:
                return "OK"
            case b"ECHO", [text]:
                return text
            case b"WAIT", [count, ms]:
                return caller.wait(int(count), int(ms) / 1000)
        return self.call(name, args)

    def call(self, name: bytes, args: Sequence[bytes]) -> Any:
        """Run a command that scripts may call, too. Raises Refused."""
        match name, args:
            case b"PUBLISH" | b"SPUBLISH", [channel, data]:
                return self.publish(channel, data)
            case b"PUBSUB", [_, channel]:
                return [channel, len(self.channels.get(channel, ()))]
            case b"PING", _:
                return "PONG"
            case b"INFO", _:
                return self.info()
        if name in WRITES and not self.primary:
            raise Refused(READONLY)
        return self.store.call(name, args)

    def info(self) -> bytes:
        return (
            b"# Server\r\nrun_id:%s\r\n# Replication\r\nrole:%s\r\nmaster_replid:%s\r\n"
            b"# Memory\r\nused_memory:1000000\r\nmaxmemory:0\r\n"
            b"maxmemory_policy:noeviction\r\n"
        ) % (self.run_id, b"master" if self.primary else b"slave", self.replid)

    def publish(self, channel: bytes, data: bytes) -> int:
        subscribed = list(self.channels.get(channel, ()))
        for each in subscribed:
            each.say([self.kind, channel, data])
        return len(subscribed)


class Caller(asyncio.Protocol):
    """A connection to a simulated Redis."""

    def __init__(self, redis: SimulatedRedis) -> None:
        self.redis = redis
        self.reader = hiredis.Reader()
        self.channels: dict[bytes, None] = {}
        self.wrote = 0  # commands in the journal after its last write
        self.waits: asyncio.TimerHandle | None = None  # until it stops to wait

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.redis.callers[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.redis.callers.pop(self, None)
        if self.waits is not None:
            self.waits.cancel()
        for channel in list(self.channels):
            self.leave(channel)

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        self.go_on()

    def go_on(self) -> None:
        """Run the commands that have come, unless one of them waits."""
        while self.waits is None and isinstance(command := self.reader.gets(), list):
            name, *args = command
            try:
                reply = self.redis.execute(self, name.upper(), args)
            except Refused as exc:
                reply = exc
            if self.redis.store.commit():
                self.wrote = len(self.redis.store.journal)
                self.redis.standby.written()
            if reply != ():
                self.say(reply)

    def wait(self, count: int, seconds: float) -> Any:
        """Answer as soon as ``count`` replicas have what this connection wrote.

        A connection that wrote nothing waits for nothing (Redis 7.2). Older ones wait
        for what was written before the last command of the connection.
        """
        if self.redis.replicated(self) >= count:
            self.redis.waits["at once"] += 1
            return self.redis.replicated(self)
        loop = asyncio.get_running_loop()
        self.waits = loop.call_later(seconds, self.waited)
        return ()

    def waited(self) -> None:
        """Answer with the number of replicas, and go on with other commands."""
        if self.waits is not None:
            self.waits.cancel()
            self.waits = None
            count = self.redis.replicated(self)
            self.redis.waits["confirmed" if count else "not confirmed"] += 1
            self.say(count)
            self.go_on()

    def say(self, reply: Any) -> None:
        """Send a reply; hang up on a subscriber that does not read."""
        if self.transport.is_closing():
            return
        self.transport.write(encoded(reply))
        waiting = self.transport.get_write_buffer_size()
        if self.channels and waiting > self.redis.output_limit:
            self.redis.overflows += 1
            self.transport.abort()

    def subscribe(self, command: bytes, channel: bytes) -> None:
        if b"UNSUB" in command:
            self.leave(channel)
        else:
            self.channels[channel] = None
            self.redis.channels.setdefault(channel, {})[self] = None
        self.say([command.lower(), channel, len(self.channels)])

    def leave(self, channel: bytes) -> None:
        self.channels.pop(channel, None)
        subscribed = self.redis.channels.get(channel, {})
        subscribed.pop(self, None)
        if not subscribed:
            self.redis.channels.pop(channel, None)


def encoded(reply: Any) -> bytes:
    """Return a reply in RESP2."""
    match reply:
        case None:
            return b"$-1\r\n"
        case Refused():
            return b"-%s\r\n" % str(reply).encode()
        case str():
            return b"+%s\r\n" % reply.encode()
        case int():
            return b":%d\r\n" % reply
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(reply), reply)
    return b"*%d\r\n%s" % (len(reply), b"".join(map(encoded, reply)))
