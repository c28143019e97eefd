"""Commands to Redis, many in one round trip.

What is asked while a round trip is under way waits and goes out together with the
next one (group commit): the busier, the larger the batches, and nobody waits longer
than one round trip.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from labserver.errors import BrokerDown

log = logging.getLogger("labserver")
TIMEOUT = 2.0  # seconds that Redis has to answer
BATCH = 512  # commands in one round trip


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


def script(name: str) -> str:
    """Return the source of a Lua script of this package."""
    return files("labserver").joinpath(name).read_text(encoding="utf-8")


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
    """Lua scripts called over one connection, in the order in which they are asked."""

    def __init__(self, connections: ConnectionPool) -> None:
        self.redis = Redis(connection_pool=connections)
        self.calls: list[Call] = []
        self.asked = asyncio.Event()
        self.hashes: dict[str, str] = {}
        self.task = asyncio.create_task(self._run())

    def call(
        self, source: str, keys: Sequence[str], args: Sequence[Any]
    ) -> asyncio.Future[Any]:
        """Run a script; the future fails with BrokerDown when Redis does."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.calls.append((answer, source, keys, args))
        self.asked.set()
        return answer

    async def stop(self) -> None:
        await ended(self.task)
        _fail(self.calls, "the server stops")
        await self.redis.aclose()

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
                # Some may have been stored: what is not known to be is not
                # acknowledged.
                _fail(batch, f"Redis does not answer ({type(exc).__name__})")
            except asyncio.CancelledError:
                _fail(batch, "the server stops")
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
            self.hashes.clear()
            again = iter(await self._execute(unknown))
            answers = [
                next(again) if isinstance(answer, NoScriptError) else answer
                for answer in answers
            ]
        for (future, *_), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                log.warning("Redis refused a script: %s", answer)
                future.set_exception(BrokerDown("Redis refused"))
                future.exception()  # whoever asked may have stopped waiting
            else:
                future.set_result(answer)

    async def _execute(self, batch: Sequence[Call]) -> list[Any]:
        for source in {source for _, source, *_ in batch} - self.hashes.keys():
            self.hashes[source] = await self.redis.script_load(source)
        pipe = self.redis.pipeline(transaction=False)
        for _, source, keys, args in batch:
            pipe.evalsha(self.hashes[source], len(keys), *keys, *args)
        return await pipe.execute(raise_on_error=False)


def _fail(calls: Sequence[Call], why: str) -> None:
    for future, *_ in calls:
        if not future.done():
            future.set_exception(BrokerDown(why))
            future.exception()  # whoever asked may have stopped waiting
