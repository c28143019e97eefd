"""A simulated Redis: real commands over the wire, and the lab's real scripts.

It has what the lab uses: scripts, publish and subscribe, an output buffer that may
overflow, and roles. It can lose its memory, start from an old state, stand still, and
be replaced by a replica that lacks the newest writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import hiredis

from labserver.simulated import lua
from labserver.simulated.loop import Process
from labserver.simulated.store import WRITES, Refused, Store

READONLY = "READONLY You can't write against a read only replica."


class SimulatedRedis:
    """One Redis server.

    Args:
        process: The process in which it runs.
        store: Its data.

    """

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

    def promote(self) -> None:
        self.primary = True
        self.replid = b"%040x" % self.process.dice.getrandbits(160)

    def demote(self) -> None:
        """Become a replica, as a sentinel asks for it; hang up on everybody."""
        self.primary = False
        for caller in list(self.callers):
            caller.transport.abort()

    async def listen(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_server(partial(Caller, self), host, port)

    # Commands

    def execute(self, caller: Caller, name: bytes, args: Sequence[bytes]) -> Any:
        """Run one command of a caller; return its reply.

        Raises:
            Refused: It is refused.

        """
        match name, args:
            case b"SUBSCRIBE" | b"UNSUBSCRIBE", channels:
                for channel in channels:
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
            case b"CLIENT" | b"SELECT", _:
                return "OK"
        return self.call(name, args)

    def call(self, name: bytes, args: Sequence[bytes]) -> Any:
        """Run a command that scripts may call, too. Raises Refused."""
        match name, args:
            case b"PUBLISH", [channel, data]:
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
            each.say([b"message", channel, data])
        return len(subscribed)


class Caller(asyncio.Protocol):
    """A connection to a simulated Redis."""

    def __init__(self, redis: SimulatedRedis) -> None:
        self.redis = redis
        self.reader = hiredis.Reader()
        self.channels: dict[bytes, None] = {}

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.redis.callers[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.redis.callers.pop(self, None)
        for channel in list(self.channels):
            self.leave(channel)

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        while isinstance(command := self.reader.gets(), list):
            name, *args = command
            try:
                reply = self.redis.execute(self, name.upper(), args)
            except Refused as exc:
                reply = exc
            self.redis.store.commit()
            if reply != ():
                self.say(reply)

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
        if command == b"SUBSCRIBE":
            self.channels[channel] = None
            self.redis.channels.setdefault(channel, {})[self] = None
        else:
            self.leave(channel)
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
