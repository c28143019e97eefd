"""Commands to Redis, many in one round trip.

Calls that are made during a round trip wait and go out together in the next one (group
commit): the busier the server, the larger the batches. A batch is bounded in bytes, so
that a missed deadline tells something about Redis, not about the size of the batch.
Pages of a history get the space that other calls leave. One page goes out in any case.

Every answer names its call. After one answer too many, each call would get the answer
of the one before it: then the connection is closed, and the whole batch fails.

Redis answers before it replicates. Where replicas have to confirm what a batch wrote,
``WAIT`` follows it on the same connection: it waits for the writes of its connection
only, and on another one it would answer at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files
from itertools import count
from typing import Any

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import (
    InvalidResponse,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as SocketTimeout

from labserver.errors import BrokerDown
from labserver.redis.deadlines import Patience
from labserver.server.tasks import Failures, keep

log = logging.getLogger("labserver")
TIMEOUT = 2.0  # seconds that Redis has to answer
CONFIRM = 1.0  # seconds of them that its replicas have to confirm a batch
REIGN = 1.0  # seconds after which the name of the server's reign is asked for again
BATCH = 512  # calls in one round trip, and as many pages
BATCH_SIZE = 2**20  # bytes of a batch's arguments and of its pages
CLOSED = "the connection to Redis is closed"


def pool(url: str) -> ConnectionPool:
    """Return connections to ``url`` that never repeat a command by themselves.

    A repeated publish would be a duplicate. The client decides whether to try again,
    with an idempotency key.
    """
    return ConnectionPool.from_url(
        url,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        driver_info=_driver(),
    )


@cache
def _driver() -> DriverInfo:
    """Return the name and version of redis-py, which reads them from a file."""
    return DriverInfo()


def script(*names: str) -> str:
    """Return the source of a Lua script: these files of this package, joined."""
    folder = files("labserver.redis")
    return "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)


@cache
def answering(source: str) -> str:
    """Return a script that answers with its last argument, then with its result."""
    return f"""local question = table.remove(ARGV)
local function answer()
{source}
end
return {{question, answer()}}
"""


async def ended(task: asyncio.Task[None]) -> None:
    """Cancel a task until it is done.

    One cancellation is not enough before Python 3.12: ``asyncio.wait_for`` loses it if
    the awaited future is done in the same moment (python/cpython#86296).
    """
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=0.1)
    if not task.cancelled():
        task.exception()  # it was logged where it happened


class Unconfirmed(RedisError):
    """Too few replicas of Redis have what it wrote."""


@dataclass(eq=False, slots=True)
class Call:
    """A call of a script: what is sent, and the future that waits for its answer.

    Attributes:
        source: Text of the script.
        keys: The keys that it uses.
        args: Its arguments, without those that every script gets.
        size: Bytes that it counts for in a batch.
        answer: Done with the script's result, or fails with BrokerDown.
        name: Unique argument that the answer repeats.

    """

    source: str
    keys: Sequence[str]
    args: Sequence[Any]
    size: int
    answer: asyncio.Future[Any]
    name: bytes = b""


class Commands:
    """Calls Lua scripts over one connection, in the order of the calls.

    A script's first two arguments are always the name of the reign of the server that
    runs it and the command that publishes; those of the caller follow.

    Args:
        connections: Makes the connection.
        failures: Counts failures of its task.
        publish: ``PUBLISH``, or ``SPUBLISH`` in a cluster.
        refused: Called when the server does not answer, or when another server must be
            asked (MOVED, READONLY).
        confirm: Replicas of Redis that must have what a call wrote before it is
            answered. All calls of the connection wait for them.

    """

    def __init__(
        self,
        connections: ConnectionPool,
        failures: Failures,
        publish: str = "PUBLISH",
        refused: Callable[[], None] = lambda: None,
        confirm: int = 0,
    ) -> None:
        self.connections = connections
        self.confirm = confirm
        self.publish = publish
        self.refused = refused
        self.connection: AbstractConnection | None = None
        self.server = b""  # name of the reign of the server at the other end
        self.identified = 0.0  # when it was asked for (loop time)
        self.calls: deque[Call] = deque()
        self.pages: deque[Call] = deque()
        self.names = count(1)
        self.asked = asyncio.Event()
        self.closed = False
        self.task = keep("commands", self._run, failures)

    def call(
        self, source: str, keys: Sequence[str], args: Sequence[Any], page: int = 0
    ) -> asyncio.Future[Any]:
        """Run a script.

        Args:
            source: Text of the script.
            keys: The keys that it uses, all in one slot.
            args: Its arguments, from the third on.
            page: Bytes that the answer may have if it is a page of a history, else 0.
                Other calls go before pages.

        Returns:
            A future with the script's result. It fails with BrokerDown if Redis does
            not answer or refuses.

        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        size = sum(len(each) for each in args if isinstance(each, bytes))
        call = Call(source, keys, args, size + page, answer)
        (self.pages if page else self.calls).append(call)
        if self.closed:
            self._give_up(CLOSED)
        self.asked.set()
        return answer

    async def stop(self) -> None:
        self.closed = True
        await ended(self.task)
        self._give_up(CLOSED)
        await self._hang_up()

    def _give_up(self, why: str) -> None:
        """Fail all calls that were not sent."""
        for calls in (self.calls, self.pages):
            _fail(calls, why)
            calls.clear()

    def _batch(self) -> list[Call]:
        """Remove and return the calls of the next round trip."""
        room = BATCH_SIZE - (self.pages[0].size if self.pages else 0)
        batch = _take(self.calls, room)
        room = BATCH_SIZE - sum(call.size for call in batch)
        return batch + _take(self.pages, room)

    async def _run(self) -> None:
        while True:
            await self.asked.wait()
            batch = self._batch()
            if not self.calls and not self.pages:
                self.asked.clear()
            try:
                async with Patience(TIMEOUT):
                    await self._send(batch)
            except (RedisError, OSError, TimeoutError, RuntimeError) as exc:
                # RuntimeError: a connection that has just ended is written to (uvloop).
                # Redis may have run some of them. A message is only acknowledged when
                # it is known to be stored.
                why = f"Redis does not answer ({type(exc).__name__})"
                _fail(batch, why)
                if isinstance(exc, TimeoutError | SocketTimeout):
                    # Calls made meanwhile would wait for another whole timeout.
                    self._give_up(why)
                    self.asked.clear()
                await self._hang_up()
                self.refused()
            except BaseException:
                # The connection may hold answers to calls that have failed.
                await self._hang_up()
                _fail(
                    batch, CLOSED if self.closed else "the connection to Redis failed"
                )
                raise

    async def _send(self, batch: Sequence[Call]) -> None:
        answers = await self._execute(batch)
        unknown = [
            call
            for call, answer in zip(batch, answers, strict=True)
            if isinstance(answer, NoScriptError)
        ]
        if unknown:
            # A Redis that has just started has no scripts: it ran none of these calls.
            for source in dict.fromkeys(call.source for call in unknown):
                (loaded,) = await self._ask([("SCRIPT", "LOAD", answering(source))])
                if loaded != _sha(source).encode():
                    raise InvalidResponse("no answer to SCRIPT LOAD")
            again = iter(await self._execute(unknown))
            answers = [
                next(again) if isinstance(answer, NoScriptError) else answer
                for answer in answers
            ]
        refused = [each for each in answers if isinstance(each, Exception)]
        if refused:  # one line a batch: peers decide how often this happens
            about = {"redis": address(self.connections)}
            log.warning(
                "%d scripts failed at Redis: %s", len(refused), refused[0], extra=about
            )
        for call, answer in zip(batch, answers, strict=True):
            if call.answer.done():
                continue
            if isinstance(answer, Unconfirmed):
                _fail([call], str(answer))
            elif isinstance(answer, Exception):
                _fail([call], "Redis refused")
            else:
                call.answer.set_result(answer)
        if any(isinstance(answer, MovedError | ReadOnlyError) for answer in answers):
            # Writes must go to another server: a new connection may reach it.
            await self._hang_up()
            self.refused()

    async def _execute(self, batch: Sequence[Call]) -> list[Any]:
        if self.connection is None:
            await self._connect()
        elif asyncio.get_running_loop().time() > self.identified + REIGN:
            await self._identify()
        for call in batch:
            call.name = b"%d" % next(self.names)
        questions: list[tuple[Any, ...]] = [
            ("EVALSHA", _sha(each.source), len(each.keys), *each.keys)
            + (self.server, self.publish, *each.args, each.name)
            for each in batch
        ]
        if not self.confirm:
            answers = await self._ask(questions)
            return [_of(*each) for each in zip(batch, answers, strict=True)]
        # ECHO: the answer to WAIT is a bare number, and names nothing.
        last = batch[-1].name
        questions += [("WAIT", self.confirm, round(CONFIRM * 1000)), ("ECHO", last)]
        *answers, confirmed, echo = await self._ask(questions)
        if echo != last:
            raise InvalidResponse("no answer to ECHO")
        found = [_of(*each) for each in zip(batch, answers, strict=True)]
        return [self._confirmed(each, confirmed) for each in found]

    def _confirmed(self, answer: Any, confirmed: Any) -> Any:
        """Return an answer, or Unconfirmed if too few replicas have what it wrote.

        Args:
            answer: The answer to a call, or the exception that it was refused with.
            confirmed: The answer to WAIT: a count, or an exception.

        """
        if isinstance(answer, Exception):
            return answer
        if isinstance(confirmed, Exception):  # Redis became a replica itself, or is old
            return Unconfirmed(f"its replicas cannot confirm: {confirmed}"[:200])
        if confirmed < self.confirm:
            return Unconfirmed(
                f"{confirmed} of {self.confirm} replicas of Redis have confirmed"
            )
        return answer

    async def _connect(self) -> None:
        # Assigned before it connects, so that a timeout closes it.
        self.connection = self.connections.make_connection()  # type: ignore[no-untyped-call]
        await self.connection.connect()
        # A batch has a deadline. The library's own would take a task for each write.
        self.connection.socket_timeout = None
        await self._identify()

    async def _identify(self) -> None:
        """Ask for the name of the reign that numbers messages.

        The run id alone does not name it: a primary that was demoted and is promoted
        again keeps its run id, but may have lost messages in between. Each promotion
        begins a new replication id.
        """
        self.identified = asyncio.get_running_loop().time()
        said = await self._ask([("INFO", "server"), ("INFO", "replication")])
        for info in said:
            if isinstance(info, Exception):
                raise info
        text = b"".join(info for info in said if isinstance(info, bytes))
        run = re.search(rb"run_id:(\w+)", text)
        if not run:
            raise InvalidResponse("no answer to INFO")
        reign = re.search(rb"master_replid:(\w+)", text)
        self.server = run[1] + (b"/" + reign[1] if reign else b"")

    async def _ask(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send all commands, then read all answers.

        Returns:
            An answer for each command, or the exception that Redis refused it with.

        """
        assert self.connection is not None
        await self.connection.send_packed_command(packed(commands))
        answers: list[Any] = []
        for _ in commands:
            try:
                # No timeout here: the whole batch has a deadline.
                answers.append(await self.connection.read_response(timeout=math.inf))
            except ResponseError as exc:
                answers.append(exc)
        return answers

    async def _hang_up(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


def packed(commands: Iterable[tuple[Any, ...]]) -> bytes:
    """Return commands as bytes, in 2 us each; redis-py's asyncio takes 20."""
    return b"".join(map(hiredis.pack_command, commands))


def address(connections: ConnectionPool) -> str:
    """Return a server's path or host:port, without its password."""
    where = connections.connection_kwargs
    return str(where.get("path") or f"{where.get('host')}:{where.get('port')}")


@cache
def _sha(source: str) -> str:
    return sha1(answering(source).encode(), usedforsecurity=False).hexdigest()


def _take(calls: deque[Call], room: int) -> list[Call]:
    """Remove and return the first calls that fit into ``room`` bytes, at least one."""
    taken: list[Call] = []
    while calls and len(taken) < BATCH and (not taken or calls[0].size <= room):
        room -= calls[0].size
        taken.append(calls.popleft())
    return taken


def _of(call: Call, said: Any) -> Any:
    """Return the answer to a call, or the exception that Redis refused it with.

    Raises:
        InvalidResponse: It is the answer to another call.

    """
    match said:
        case ResponseError():
            return said
        case [call.name, answer]:
            return answer
    raise InvalidResponse("an answer to another question")


def _fail(calls: Iterable[Call], why: str) -> None:
    for call in calls:
        if not call.answer.done():
            call.answer.set_exception(BrokerDown(why))
            call.answer.exception()  # the caller may have stopped waiting
