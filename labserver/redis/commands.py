"""Commands to Redis, many in one round trip.

What is asked while a round trip is under way waits and goes out together with the
next one (group commit): the busier, the larger the batches, and nobody waits longer
than one round trip.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as SocketTimeout

from labserver.errors import BrokerDown

log = logging.getLogger("labserver")
TIMEOUT = 2.0  # seconds that Redis has to answer
BATCH = 512  # commands in one round trip
CLOSED = "the way to Redis is closed"


def pool(url: str) -> ConnectionPool:
    """Return connections to ``url`` that never repeat a command by themselves.

    A repeated publish is a duplicate: whether to try again is for the client to say,
    with an idempotency key.
    """
    return ConnectionPool.from_url(
        url,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
    )


def script(*names: str) -> str:
    """Return the source of a Lua script of this package, made of these files."""
    folder = files("labserver.redis")
    return "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)


async def ended(task: asyncio.Task[None]) -> None:
    """Cancel a task until it is over.

    Once is not enough before Python 3.12: when what it waits for is done in the same
    moment, ``asyncio.wait_for`` swallows it (python/cpython#86296).
    """
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=0.1)
    if not task.cancelled():
        task.exception()  # it was told of where it happened


Call = tuple[asyncio.Future[Any], str, Sequence[str], Sequence[Any]]


class Commands:
    """Lua scripts called over one connection, in the order in which they are asked.

    A script's first two arguments are always the run id of the server that runs it and
    the command that publishes; those of the caller follow.

    Args:
        connections: Where the connection comes from.
        publish: ``PUBLISH``, or ``SPUBLISH`` in a cluster.
        refused: Called when the server is away, or is not the one to ask.

    """

    def __init__(
        self,
        connections: ConnectionPool,
        publish: str = "PUBLISH",
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self.connections = connections
        self.publish = publish
        self.refused = refused
        self.connection: AbstractConnection | None = None
        self.server = b""  # run id of the process at the other end of the connection
        self.calls: list[Call] = []
        self.asked = asyncio.Event()
        self.closed = False
        self.task = asyncio.create_task(self._run())

    def call(
        self, source: str, keys: Sequence[str], args: Sequence[Any]
    ) -> asyncio.Future[Any]:
        """Run a script; the future fails with BrokerDown when Redis does."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.calls.append((answer, source, keys, args))
        if self.closed:
            self._close()
        self.asked.set()
        return answer

    async def stop(self) -> None:
        self.closed = True
        await ended(self.task)
        self._close()
        await self._hang_up()

    def _close(self) -> None:
        calls, self.calls = self.calls, []
        _fail(calls, CLOSED)

    async def _run(self) -> None:
        while True:
            await self.asked.wait()
            batch, self.calls = self.calls[:BATCH], self.calls[BATCH:]
            if not self.calls:
                self.asked.clear()
            try:
                async with asyncio.timeout(TIMEOUT):
                    await self._send(batch)
            except (RedisError, OSError, TimeoutError) as exc:
                if isinstance(exc, TimeoutError | SocketTimeout):
                    # Who came meanwhile would wait as long again, behind them.
                    batch, self.calls = batch + self.calls, []
                    self.asked.clear()
                # Some may have been stored: what is not known to be is not
                # acknowledged.
                _fail(batch, f"Redis does not answer ({type(exc).__name__})")
                await self._hang_up()
                self.refused()
            except asyncio.CancelledError:
                _fail(batch, CLOSED)
                raise

    async def _send(self, batch: Sequence[Call]) -> None:
        answers = await self._execute(batch)
        unknown = [
            call
            for call, answer in zip(batch, answers, strict=True)
            if isinstance(answer, NoScriptError)
        ]
        if unknown:
            # A Redis that has just started knows no scripts; it ran none of these.
            for source in {source for _, source, *_ in unknown}:
                await self._ask([("SCRIPT", "LOAD", source)])
            again = iter(await self._execute(unknown))
            answers = [
                next(again) if isinstance(answer, NoScriptError) else answer
                for answer in answers
            ]
        refused = [each for each in answers if isinstance(each, Exception)]
        if refused:  # peers decide how often
            about = {"redis": _address(self.connections)}
            log.warning(
                "Redis refused %d scripts: %s", len(refused), refused[0], extra=about
            )
        for (future, *_), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(BrokerDown("Redis refused"))
                future.exception()  # whoever asked may have stopped waiting
            else:
                future.set_result(answer)
        if any(isinstance(answer, MovedError | ReadOnlyError) for answer in answers):
            # Another server is the one to write to: a new connection may reach it.
            await self._hang_up()
            self.refused()

    async def _execute(self, batch: Sequence[Call]) -> list[Any]:
        if self.connection is None:
            await self._connect()
        return await self._ask(
            [
                ("EVALSHA", _sha(source), len(keys), *keys, self.server, self.publish)
                + tuple(args)
                for _, source, keys, args in batch
            ]
        )

    async def _connect(self) -> None:
        # Known before it stands, so that it is closed if that takes too long.
        self.connection = self.connections.make_connection()  # type: ignore[no-untyped-call]
        await self.connection.connect()
        (info,) = await self._ask([("INFO", "server")])
        if isinstance(info, Exception):
            raise info
        found = re.search(rb"run_id:(\w+)", info)
        self.server = found[1] if found else b""

    async def _ask(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send all, then read all; what Redis refused is an exception in the list."""
        assert self.connection is not None
        packed = self.connection.pack_commands(commands)
        await self.connection.send_packed_command(packed)
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await self.connection.read_response())
            except ResponseError as exc:
                answers.append(exc)
        return answers

    async def _hang_up(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


def _address(connections: ConnectionPool) -> str:
    """Return where a server is, without a password."""
    where = connections.connection_kwargs
    return str(where.get("path") or f"{where.get('host')}:{where.get('port')}")


@cache
def _sha(source: str) -> str:
    return sha1(source.encode(), usedforsecurity=False).hexdigest()


def _fail(calls: Sequence[Call], why: str) -> None:
    for future, *_ in calls:
        if not future.done():
            future.set_exception(BrokerDown(why))
            future.exception()  # whoever asked may have stopped waiting
