"""A client that comes back: an async context manager and an iterator of messages.

    async with Client(url, token=get_token) as client:
        await client.join("lobby")
        async for message in client:
            ...

It joins its rooms again with a cursor, so that the server can replay what was missed,
and it obeys close codes: it does not return where it is not welcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from labserver.contract import closing
from labserver.contract.closing import Return
from labserver.errors import LabError

Message = dict[str, Any]
Token = str | Callable[[], str | Awaitable[str]] | None

AGAIN = "again:"  # starts the ref of a join that follows a reconnect
TOLD = {"message", "gap", "joined", "present", "presence"}  # what the iterator yields
QUEUE = 1024  # messages that wait for the iterator; then reading stops


class Rejected(LabError):
    """The server will not have this client again. The message says why."""


class ServerError(LabError):
    """The server answered a request with an ``error``."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class Backoff:
    """How long to wait before the next attempt, in seconds.

    Full jitter: uniform between 0 and a ceiling that doubles up to a cap. The cap is
    applied before the draw, so that even the longest waits are spread; the first delay
    is random too, because everybody loses the same server at the same moment.

    Args:
        first: Ceiling of the first delay.
        cap: Ceiling of any delay.
        stable: A connection that lasts so long resets the ceiling.

    """

    def __init__(
        self, first: float = 0.5, cap: float = 20.0, stable: float = 10.0
    ) -> None:
        self.first = first
        self.cap = cap
        self.stable = stable
        self.attempt = 0

    def next(self, draw: Callable[[], float] = random.random) -> float:
        """Return the next delay; ``draw`` returns a number in [0, 1)."""
        ceiling = min(self.cap, self.first * 2.0 ** min(self.attempt, 60))
        self.attempt += 1
        return draw() * ceiling

    def lasted(self, seconds: float) -> None:
        """Note how long the last connection lasted."""
        if seconds >= self.stable:
            self.attempt = 0


class Client:
    """A connection that survives its sockets.

    Args:
        url: Address of the server, without a token, or a function that returns one;
            it is called for every attempt, so that another replica can be chosen.
        token: The token, or a function or coroutine function that returns one; it is
            called for every attempt, so that an expired one is replaced.
        backoff: When to try again.
        options: Further arguments of :func:`websockets.asyncio.client.connect`.

    """

    def __init__(
        self,
        url: str | Callable[[], str],
        token: Token = None,
        *,
        backoff: Backoff | None = None,
        **options: Any,
    ) -> None:
        self.url = url
        self.token = token
        self.backoff = backoff or Backoff()
        self.options = options
        self.hello: Message = {}
        self.cursors: dict[str, Message | None] = {}
        self.present: set[str] = set()  # rooms in which to see, and be seen
        self.connects = 0  # how often a connection was made
        self.latest_close: int | None = None
        self._connection: ClientConnection | None = None
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue()
        self._wanted = asyncio.Event()  # somebody waits for what is not in the queue
        self._waiting: dict[str, asyncio.Future[Message]] = {}
        self._refs = itertools.count(1)
        self._open = asyncio.Event()
        self._failure: Exception | None = None
        self._retries: set[asyncio.Task[None]] = set()
        self._refused_token: str | None = None
        self._latest_token: str | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        opened = asyncio.create_task(self._open.wait())
        try:
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait((opened, self._task), return_when=first)
        except BaseException:
            self._task.cancel()  # or it would go on for ever
            raise
        finally:
            opened.cancel()
        if self._failure is not None:
            await self._task
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in (self._task, *self._retries):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Rejected):
            await self._task
        if self._connection is not None:
            await self._connection.close()

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield ``message``, ``gap`` and ``joined``, over all reconnects.

        Also ``present`` and ``presence`` of rooms that were joined with presence, and
        an ``error``, when a room could not be entered again.

        Raises Rejected when the server will not have this client again.
        """
        while (message := await self._queue.get()) is not None:
            self._wanted.set()
            yield message
        if self._failure is not None:
            raise self._failure

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._connection is not None

    # Requests

    async def join(
        self, room: str, after: Message | None = None, presence: bool = False
    ) -> Message:
        """Enter a room, now and after every reconnect; return the ``joined``.

        With ``presence`` the others who asked for it are told, and so is this client.
        """
        await self._open.wait()  # else the reconnect would enter it, too
        self.cursors.setdefault(room, after)
        (self.present.add if presence else self.present.discard)(room)
        try:
            return await self._request({"type": "join", **self._wish(room, after)})
        except ServerError:
            self.cursors.pop(room, None)
            self.present.discard(room)
            raise

    def _wish(self, room: str, after: Message | None) -> Message:
        """Return what a join asks for."""
        wish: Message = {"room": room, **({"after": after} if after else {})}
        return {**wish, "presence": True} if room in self.present else wish

    async def leave(self, room: str) -> Message:
        """Leave a room; return the ``left``."""
        self.cursors.pop(room, None)
        self.present.discard(room)
        return await self._request({"type": "leave", "room": room})

    async def publish(self, room: str, payload: Any, key: str | None = None) -> Message:
        """Publish, and return the ``ack``.

        With a ``key`` it is safe to try again after a ConnectionError.
        """
        message = {"type": "publish", "room": room, "payload": payload}
        return await self._request({**message, **({"key": key} if key else {})})

    async def ping(self) -> Message:
        """Ask the server for a ``pong``."""
        return await self._request({"type": "ping"})

    async def _request(self, message: Message) -> Message:
        await self._open.wait()
        connection = self._connection
        if connection is None:
            raise self._failure or ConnectionError("there is no connection")
        ref = f"r{next(self._refs)}"
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[ref] = answer
        self._wanted.set()
        try:
            await connection.send(json.dumps({**message, "ref": ref}))
            return await answer
        except ConnectionClosed:
            raise ConnectionError("the connection ended before the answer") from None
        finally:
            self._waiting.pop(ref, None)

    # Connecting

    async def _run(self) -> None:
        try:
            while True:
                delay = await self._attempt()
                await asyncio.sleep(delay)
        except asyncio.CancelledError:
            self._open.set()  # whoever waits for a connection waits in vain
            self._queue.put_nowait(None)
            raise
        except Exception as exc:
            self._failure = exc
            self._open.set()
            self._queue.put_nowait(None)  # behind what was heard before
            raise

    async def _attempt(self) -> float:
        """Connect and listen until the end; return the seconds to wait then."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with await self._connect() as connection:
                self._connection = connection
                self.connects += 1
                try:
                    await self._listen(connection)
                except ConnectionClosed:
                    pass
                except asyncio.CancelledError:
                    await connection.close()  # the library would say 1011
                    raise
                finally:
                    # Before anything is awaited: a request made from now on waits for
                    # the next connection.
                    self._connection = None
                    self._open.clear()
                    self._fail_requests()
                    for retry in self._retries:
                        retry.cancel()  # the next connection enters every room
                self.backoff.lasted(loop.time() - started)
                return self._after_close(connection.close_code, connection.close_reason)
        except InvalidStatus as exc:
            return self._after_status(exc)
        except (OSError, TimeoutError, InvalidHandshake, EOFError):
            return self.backoff.next()

    async def _connect(self) -> connect:
        token = self.token() if callable(self.token) else self.token
        if inspect.isawaitable(token):
            token = await token
        if token is not None and token == self._refused_token:
            raise Rejected("the server refused this token, and there is no other")
        self._latest_token = token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = self.url() if callable(self.url) else self.url
        return connect(url, additional_headers=headers, **self.options)

    def _after_close(self, code: int | None, reason: str | None) -> float:
        self.latest_close = code
        comes_back = closing.comes_back(code)
        if comes_back is Return.NEVER:
            raise Rejected(f"closed with {code} {reason}")
        if comes_back is Return.NEW_TOKEN and not callable(self.token):
            raise Rejected(f"closed with {code} {reason}, and there is no new token")
        if comes_back is Return.NEW_TOKEN:
            self._refused_token = self._latest_token
        asked = closing.retry_after(reason or "")
        delay = self.backoff.next()
        if comes_back is Return.LATER:
            delay += self.backoff.first
        return asked if asked is not None else delay

    def _after_status(self, exc: InvalidStatus) -> float:
        status = exc.response.status_code
        new_token = status == 401 and callable(self.token)
        if status not in (429, 500, 502, 503, 504) and not new_token:
            raise Rejected(f"refused with HTTP {status}") from None
        if new_token:
            self._refused_token = self._latest_token
        asked = exc.response.headers.get("Retry-After", "")
        number = asked.isascii() and asked.isdigit()  # a date is not worth the code
        seconds = min(float(asked), 3600.0) if number else 0.0
        # Everybody was told the same number: the jitter comes on top.
        return seconds + self.backoff.next()

    async def _listen(self, connection: ClientConnection) -> None:
        self.hello = json.loads(await connection.recv())
        for room in list(self.cursors):
            await self._enter_again(room)
        self._open.set()
        async for data in connection:
            message = json.loads(data)
            self._note(message)
            waiting = self._waiting.get(message.get("ref", ""))
            if waiting is not None and not waiting.done():
                if message["type"] == "error":
                    error = ServerError(message["code"], message["detail"])
                    waiting.set_exception(error)
                else:
                    waiting.set_result(message)
            if message["type"] in TOLD:
                self._queue.put_nowait(message)
                await self._not_too_far_ahead()
            elif message["type"] == "error" and waiting is None:
                await self._not_entered(message)

    async def _not_too_far_ahead(self) -> None:
        """Stop reading while nobody iterates, unless an answer is waited for."""
        while self._queue.qsize() >= QUEUE and not self._waiting:
            self._wanted.clear()
            await self._wanted.wait()

    async def _enter_again(self, room: str, delay: float = 0.0) -> None:
        await asyncio.sleep(delay)
        if self._connection is None or room not in self.cursors:
            return
        wish = self._wish(room, self.cursors[room])
        message = {"type": "join", **wish, "ref": AGAIN + room}
        with contextlib.suppress(ConnectionClosed):
            await self._connection.send(json.dumps(message))

    async def _not_entered(self, error: Message) -> None:
        """Try again where the broker was down; else say so, and give the room up."""
        ref = error.get("ref")
        if not isinstance(ref, str) or not ref.startswith(AGAIN):
            return
        room = ref.removeprefix(AGAIN)
        if error["code"] == "broker_down":
            retry = asyncio.create_task(self._enter_again(room, self.backoff.next()))
            self._retries.add(retry)
            retry.add_done_callback(self._retries.discard)
        else:
            self.cursors.pop(room, None)
            self.present.discard(room)
            self._queue.put_nowait(error)

    def _note(self, message: Message) -> None:
        """Keep the cursor of each room at the newest that is known."""
        room = message.get("room", "")
        if room not in self.cursors:
            return
        cursor = self.cursors[room] or {"epoch": "", "seq": 0}
        match message["type"]:
            case "joined" if not message["recovered"]:
                cursor = {"epoch": message["epoch"], "seq": message["seq"]}
            case "joined":  # what was missed follows, maybe in a new epoch
                cursor = {**cursor, "epoch": message["epoch"]}
            case "message":
                cursor = {**cursor, "seq": message["seq"]}
            case "gap":
                cursor = {**cursor, "seq": message["to"]}
            case _:
                return
        self.cursors[room] = cursor

    def _fail_requests(self) -> None:
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionError("the connection was lost"))
                answer.exception()
