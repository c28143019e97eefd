"""A client that reconnects: an async context manager and an iterator of messages.

    async with Client(url, token=get_token) as client:
        await client.join("lobby")
        async for message in client:
            ...

After a reconnect it joins its rooms again with a cursor, so that the server can replay
missed messages. It obeys close codes: after some of them it does not reconnect, or only
with a new token. All other failures of a reconnect, such as a token source that raises
or a server that sends garbage, make it wait and try again. Only the first connection
may raise such an exception.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.frames import Close

from labserver.contract import closing
from labserver.contract.closing import Return, is_number
from labserver.contract.messages import SIZE_LIMIT_HEADER
from labserver.contract.plain_json import from_json, to_json
from labserver.errors import LabError

Message = dict[str, Any]
Token = str | Callable[[], str | Awaitable[str]] | None

AGAIN = "again:"  # prefix of the refs of joins after a reconnect
TOLD = {"message", "gap", "joined", "present", "presence"}  # the iterator yields these
PASSES = {"broker_down", "rate_limited"}  # errors after which a join is repeated
QUEUE = 1024  # messages waiting for the iterator, at which reading stops
WINDOW = 16  # unanswered joins at a time, after a reconnect
ATTEMPT_TIMEOUT = 10.0  # seconds from the start of an attempt to the hello
STUCK_TIMEOUT = 20.0  # seconds that a send may wait for the server
GOODBYE_TIMEOUT = 2.0  # seconds that the server has to answer a close frame
PASSING = (OSError, EOFError, InvalidHandshake)  # raised while a server is down

log = logging.getLogger("labserver.client")
library_log = logging.getLogger("labserver.websockets")
library_log.setLevel(logging.WARNING)  # DEBUG would log headers, with the token


class Rejected(LabError):
    """The server does not accept this client any more. The message says why."""


class ServerError(LabError):
    """The server answered a request with an ``error``."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class TooBig(LabError):
    """A message is larger than the server accepts. It was not sent.

    Args:
        size: Bytes of the message.
        limit: Bytes that the server accepts.

    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a message of {size:,} bytes; the server takes {limit:,}")
        self.size = size
        self.limit = limit


class Backoff:
    """How long to wait before the next attempt, in seconds.

    It has full jitter: a delay is uniform between 0 and a ceiling, and the ceiling
    doubles up to a cap. The cap is applied before the draw, so that even the longest
    delays are spread. The first delay is random too, because all clients of a server
    lose it at the same moment.

    Args:
        first: Ceiling of the first delay, in seconds.
        cap: Highest ceiling, in seconds.
        stable: Seconds from its hello after which a connection resets the ceiling.

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
        """Record how many seconds the last connection lasted."""
        if seconds >= self.stable:
            self.attempt = 0


@dataclass
class Stay:
    """The state of a client in a room, from the first join to the leave.

    Attributes:
        entered: Whether it has joined the room on this connection.
        pending: Joins without an answer on this connection.

    """

    entered: bool = False
    pending: int = 0


@dataclass(frozen=True)
class Request:
    """A request without an answer, and the stay that its answer may change."""

    answer: asyncio.Future[Message]
    room: str = ""
    stay: Stay | None = None


class Client:
    """A connection that survives its sockets.

    Requests are sent one after the other, in the order of the calls, and change the
    client's state in the same order. An answer only changes the stay for which it was
    asked. So after ``leave`` and ``join`` the client is in the room, whatever the
    answers' order.

    Args:
        url: URL of the server without a token, or a function that returns it. The
            function is called for every attempt, so that it can choose another replica.
        token: The token, or a function or coroutine function that returns it. The
            function is called for every attempt, so that it can replace an expired
            token.
        backoff: Delays between attempts.
        open_timeout: Seconds for the first connection, over all attempts; None for no
            limit.
        request_timeout: Seconds for a request, from the call to the answer. A wait for
            the connection counts. None for no limit.
        options: Further arguments of :func:`websockets.asyncio.client.connect`.

    """

    def __init__(
        self,
        url: str | Callable[[], str],
        token: Token = None,
        *,
        backoff: Backoff | None = None,
        open_timeout: float | None = 30.0,
        request_timeout: float | None = 30.0,
        **options: Any,
    ) -> None:
        self.url = url
        self.token = token
        self.backoff = backoff or Backoff()
        self.open_timeout = open_timeout
        self.request_timeout = request_timeout
        self.options = {"logger": library_log, **options}
        self.hello: Message = {}
        self.cursors: dict[str, Message | None] = {}
        self.present: set[str] = set()  # rooms joined with presence
        self.connects = 0  # connections so far that got a hello
        self.latest_close: int | None = None
        self.size_limit = 0  # bytes that the server accepts; 0 for unknown
        self._connection: ClientConnection | None = None
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue()
        self._wanted = asyncio.Event()  # more must be read than the queue has
        self._turn = asyncio.Lock()  # to send the next request
        self._waiting: dict[str, Request] = {}
        self._returning: dict[str, Request] = {}  # joins after a reconnect
        self._repeats: set[asyncio.Task[None]] = set()  # of joins that were refused
        self._stays: dict[str, Stay] = {}
        self._refs = itertools.count(1)
        self._window = WINDOW
        self._open = asyncio.Event()
        self._over = False
        self._failure: Exception | None = None
        self._where = "the server"
        self._latest_failure = "no answer yet"
        self._unreadable = False  # whether garbage came on this connection
        self._refused_token: str | None = None
        self._latest_token: str | None = None

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            Rejected: The server does not accept this client.
            TimeoutError: No attempt succeeded within ``open_timeout``.
            Exception: The exception of the token source or of the function for the URL.

        """
        self._task = asyncio.create_task(self._run())
        opened = asyncio.create_task(self._open.wait())
        try:
            done, _ = await asyncio.wait(
                (opened, self._task),
                timeout=self.open_timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                raise TimeoutError(
                    f"no connection within {self.open_timeout:g} s; "
                    f"the latest attempt: {self._latest_failure}"
                )
            if self._failure is not None:
                raise self._failure
        except BaseException:
            self._task.cancel()  # it would go on for ever
            raise
        finally:
            opened.cancel()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection; a cancelled caller does not wait for the answer."""
        self._task.cancel()
        try:
            # ``await self._task`` could not tell its cancellation from the caller's.
            await asyncio.wait((self._task,), timeout=2 * GOODBYE_TIMEOUT)
        finally:
            self._task.cancel()  # end a close that is still waiting

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield ``message``, ``gap`` and ``joined``, over all reconnects.

        It also yields ``present`` and ``presence`` for rooms joined with presence, and
        the ``error`` when a room could not be joined again.

        Raises Rejected when the server does not accept this client any more.
        """
        while (message := await self._queue.get()) is not None:
            self._wanted.set()
            yield message
        self._queue.put_nowait(None)  # the next iterator must see the end, too
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
        """Join a room, now and after every reconnect; return the ``joined``.

        After a ConnectionError or a TimeoutError the client still enters the room as
        soon as it can; ``leave`` ends that.

        Args:
            room: The room's name, 1 to 64 of ``A-Z a-z 0-9 _ . : -``.
            after: Cursor after which to replay, with ``epoch`` and ``seq``. If its
                epoch is gone, ``recovered`` is false, and the messages of the new one
                follow from its start, if the room still has them all.
            presence: Whether to be listed in the room, and be told of others.

        Raises:
            ServerError: The server answered with an error.
            ConnectionError: The connection was lost before the answer.
            TimeoutError: There was no answer within ``request_timeout`` seconds.
            Rejected: The server does not accept this client any more.

        """
        message = _join(room, after, presence)
        try:
            return await self._request(message)
        except (ConnectionError, TimeoutError):
            if "ref" not in message:  # it was not sent
                self._wish(message)
                self._repeat()
            raise

    async def leave(self, room: str) -> Message:
        """Leave a room, now and after every reconnect; return the ``left``.

        Raises:
            ServerError: The server answered with an error.
            ConnectionError: The connection was lost before the answer.
            TimeoutError: There was no answer within ``request_timeout`` seconds.
            Rejected: The server does not accept this client any more.

        """
        message = {"type": "leave", "room": room}
        if not self._turn.locked():  # else an earlier request must be sent first
            self._forget(room)  # also without a connection: a reconnect must not join
        try:
            return await self._request(message)
        except (ConnectionError, TimeoutError):
            if "ref" not in message:
                self._forget(room)
            raise

    async def publish(self, room: str, payload: Any, key: str | None = None) -> Message:
        """Publish a message; return the ``ack``, with the message's ``seq``.

        After a ConnectionError or a TimeoutError nobody knows yet whether the server
        has the message. It is safe to call this again with the same ``key``: the
        message is delivered only once. The server knows a key for 5 minutes.

        Args:
            room: The room's name. Publishing does not need a join.
            payload: Anything that JSON can express.
            key: Names this message among all messages of this user.

        Raises:
            TooBig: The message is larger than the server accepts. It was not sent.
            ServerError: The server answered with an error.
            ConnectionError: The connection was lost before the answer.
            TimeoutError: There was no answer within ``request_timeout`` seconds.
            Rejected: The server does not accept this client any more.
            ValueError, TypeError: The payload cannot be encoded as JSON.

        """
        message = {"type": "publish", "room": room, "payload": payload}
        return await self._request({**message, **({"key": key} if key else {})})

    async def ping(self) -> Message:
        """Send a ``ping``; return the ``pong``.

        Raises:
            ConnectionError: The connection was lost before the answer.
            TimeoutError: There was no answer within ``request_timeout`` seconds.
            Rejected: The server does not accept this client any more.

        """
        return await self._request({"type": "ping"})

    async def _request(self, message: Message) -> Message:
        try:
            async with asyncio.timeout(self.request_timeout) as limit:
                return await self._answer_to(message)
        except TimeoutError:
            if not limit.expired():
                raise
            what = message["type"]
            raise TimeoutError(
                f"no answer to a {what} within {self.request_timeout:g} s"
            ) from None

    async def _answer_to(self, message: Message) -> Message:
        async with self._turn:
            connection = await self._opened()
            ref = message["ref"] = f"r{next(self._refs)}"
            data = to_json(message).encode()
            if 0 < self.size_limit < len(data):
                raise TooBig(len(data), self.size_limit)
            request = self._asking(message)
            self._waiting[ref] = request
            self._wanted.set()
            await _send(connection, data)
        try:
            return await request.answer
        finally:
            if request.stay is None:  # else the answer still changes the stay
                self._waiting.pop(ref, None)

    async def _opened(self) -> ClientConnection:
        """Return the connection; wait until there is one that has joined its rooms."""
        while (connection := self._connection) is None or not self._open.is_set():
            if self._over:
                raise self._failure or ConnectionError("there is no connection")
            await self._open.wait()
        return connection

    def _asking(self, message: Message) -> Request:
        """Change the client's state for a request; return the pending request."""
        stay, room = None, message.get("room", "")
        if message["type"] == "leave":
            self._forget(room)
        elif message["type"] == "join":
            self._wish(message)
            stay = self._stays.setdefault(room, Stay())
            stay.pending += 1
        return Request(asyncio.get_running_loop().create_future(), room, stay)

    def _wish(self, join: Message) -> None:
        """Note that the client wants to be in a room."""
        room = join["room"]
        self.cursors.setdefault(room, join.get("after"))
        seen = join.get("presence", False)
        (self.present.add if seen else self.present.discard)(room)

    def _forget(self, room: str) -> None:
        self.cursors.pop(room, None)
        self.present.discard(room)
        self._stays.pop(room, None)

    # Connecting

    async def _run(self) -> None:
        try:
            while True:
                delay = await self._attempt()
                await asyncio.sleep(delay)
        except Exception as exc:
            self._failure = exc
        finally:
            self._over = True
            self._open.set()  # wake all that wait for a connection
            self._queue.put_nowait(None)  # after the messages received so far

    async def _attempt(self) -> float:
        """Connect and listen until the end; return the seconds to wait then."""
        try:
            async with asyncio.timeout(self._attempt_timeout):
                connection = await self._connect()
        except InvalidStatus as exc:
            return self._after_status(exc)
        except Rejected:
            raise
        except Exception as exc:
            if not self.connects and not isinstance(exc, PASSING):
                raise
            return self._again(self.backoff.next(), self._reason(exc))
        try:
            await self._converse(connection)
        except ConnectionClosed:
            pass
        except OSError as exc:  # no hello came
            return self._again(self.backoff.next(), self._reason(exc))
        finally:
            await _hang_up(connection)
        # A close code that this side sent first is not the server's decision.
        decided = connection.protocol.close_rcvd_then_sent
        code = connection.close_code if decided else 1006
        return self._after_close(code, connection.close_reason)

    @property
    def _attempt_timeout(self) -> float:
        return min(ATTEMPT_TIMEOUT, self.open_timeout or ATTEMPT_TIMEOUT)

    async def _connect(self) -> ClientConnection:
        token = await self._current_token()
        if token is not None and token == self._refused_token:
            raise Rejected("the server refused this token, and there is no other")
        self._latest_token = token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = self.url() if callable(self.url) else self.url
        self._where = _shown(url)
        connection = await connect(url, additional_headers=headers, **self.options)
        assert connection.response is not None
        limit = connection.response.headers.get(SIZE_LIMIT_HEADER, "")
        self.size_limit = int(limit[:18]) if is_number(limit) else 0
        return connection

    async def _current_token(self) -> str | None:
        token = self.token() if callable(self.token) else self.token
        if not inspect.isawaitable(token):
            return token
        try:
            return await token
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise ConnectionError("the token source was cancelled") from None

    def _after_close(self, code: int | None, reason: str | None) -> float:
        self.latest_close = code
        comes_back = closing.comes_back(code)
        if comes_back is Return.NEVER:
            raise Rejected(f"closed with {code} {reason}")
        if comes_back is Return.NEW_TOKEN and not callable(self.token):
            raise Rejected(f"closed with {code} {reason}, and there is no new token")
        if comes_back is Return.NEW_TOKEN:
            self._refused_token = self._latest_token or self._refused_token
        asked = closing.retry_after(reason or "")
        delay = self.backoff.next()
        if comes_back is Return.LATER:
            delay += self.backoff.first
        if code == closing.RATE_LIMITED.code:
            self._window = 1  # perhaps because of the joins after a reconnect
        delay = asked if asked is not None else delay
        return self._again(delay, f"closed with {code} {reason or ''}".rstrip())

    def _after_status(self, exc: InvalidStatus) -> float:
        status = exc.response.status_code
        comes_back = closing.after_status(status)
        if comes_back is Return.NEW_TOKEN and callable(self.token):
            self._refused_token = self._latest_token or self._refused_token
        elif comes_back is not Return.SOON:
            raise Rejected(f"refused with HTTP {status}") from None
        seconds = closing.retry_after_header(
            exc.response.headers.get("Retry-After", "")
        )
        # All clients get the same Retry-After, so jitter is added to it.
        return self._again(seconds + self.backoff.next(), f"HTTP {status}")

    def _again(self, delay: float, reason: str) -> float:
        """Log why there is no connection; return the delay, in seconds."""
        if self._latest_token:
            reason = reason.replace(self._latest_token, "...")
        self._latest_failure = reason
        log.info("no connection to %s: %s; again in %.1f s", self._where, reason, delay)
        return delay

    def _reason(self, exc: Exception) -> str:
        """Return a failure in words, only its type if the text may hold a secret."""
        name = type(exc).__name__
        return f"{name}: {exc}".rstrip(": ") if isinstance(exc, PASSING) else name

    # Listening

    async def _converse(self, connection: ClientConnection) -> None:
        """Read the hello, join the rooms again, and listen until the end."""
        async with asyncio.timeout(self._attempt_timeout):
            self.hello = _hello(await connection.recv())
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.connects += 1
        self._unreadable = False
        self._connection = connection
        returning = asyncio.create_task(self._return(connection))
        try:
            async for data in connection:
                self._hear(data)
                await self._not_too_far_ahead()
        finally:
            # Without an await before it: requests from now on must wait for the next
            # connection.
            self._connection = None
            self._open.clear()
            self._fail_requests(connection.protocol.close_rcvd)
            for task in (returning, *self._repeats):
                task.cancel()  # the next connection joins every room
            self.backoff.lasted(loop.time() - began)

    def _repeat(self) -> None:
        """Join the rooms that the client wants to be in and is not, if it can."""
        if self._connection is not None and self._open.is_set():
            task = asyncio.create_task(self._return(self._connection))
            self._repeats.add(task)
            task.add_done_callback(self._repeats.discard)

    async def _return(self, connection: ClientConnection) -> None:
        """Join every room again, as fast as the server allows.

        The number of unanswered joins is limited: a server with a rate limit answers
        surplus joins with ``rate_limited``, and closes the connection after more of
        them.
        """
        rooms, pause = deque(self.cursors), Backoff(first=0.25, cap=2.0)
        stays = {room: self._stays.setdefault(room, Stay()) for room in rooms}
        with contextlib.suppress(ConnectionError):
            while rooms:
                asked: dict[str, Request] = {}
                while rooms and len(asked) < self._window:
                    room = rooms.popleft()
                    stay = stays[room]
                    left = self._stays.get(room) is not stay
                    if left or stay.pending or stay.entered:
                        continue  # left meanwhile, or joined by the program
                    wish = _join(room, self.cursors[room], room in self.present)
                    asked[room] = self._returning[AGAIN + room] = self._asking(wish)
                    wish["ref"] = AGAIN + room
                    await _send(connection, to_json(wish).encode())
                self._open.set()
                refused = [
                    room
                    for room, request in asked.items()
                    if (await request.answer).get("code") in PASSES
                ]
                rooms.extend(refused)
                if refused:
                    self._window = 1
                    await asyncio.sleep(pause.next(lambda: random.uniform(0.5, 1.0)))
                else:
                    self._window = min(WINDOW, self._window + 1)
                    pause.attempt = 0
        self._open.set()

    async def _not_too_far_ahead(self) -> None:
        """Wait while the queue is full, unless a request waits for its answer."""
        while self._queue.qsize() >= QUEUE and not self._waiting:
            self._wanted.clear()
            await self._wanted.wait()

    def _hear(self, data: str | bytes) -> None:
        """Handle a message of the server; no message may end the client."""
        try:
            self._take(_message(data))
        except Exception as exc:
            if not self._unreadable:
                name = type(exc).__name__
                log.warning("%s sent an unreadable message: %s", self._where, name)
            self._unreadable = True

    def _take(self, message: Message) -> None:
        ref, request = message.get("ref"), None
        if isinstance(ref, str):
            request = self._waiting.pop(ref, None) or self._returning.pop(ref, None)
        if request is None:
            self._note(message)
        else:
            self._answer(request, message)
            if request.stay is self._stays.get(request.room):
                self._note(message)
        if message["type"] in TOLD:
            self._queue.put_nowait(message)

    def _answer(self, request: Request, message: Message) -> None:
        """Hand over an answer; forget a room in which the join was refused."""
        again = message["ref"].startswith(AGAIN)
        failed = message["type"] == "error"
        code, detail = str(message.get("code")), str(message.get("detail"))
        if request.stay is not None:
            request.stay.pending -= 1
            outside = not request.stay.entered and not request.stay.pending
            wanted = request.stay is self._stays.get(request.room)
            if failed and outside and wanted:
                late = again or request.answer.done()  # nobody waits to be told
                if not (late and code in PASSES):
                    self._forget(request.room)
                    if late:
                        self._queue.put_nowait(message)
                elif not again:  # else the way back repeats it
                    self._repeat()
        if request.answer.done():  # the caller was cancelled
            return
        if failed and not again:
            request.answer.set_exception(ServerError(code, detail))
        else:
            request.answer.set_result(message)

    def _note(self, message: Message) -> None:
        """Move the cursor of a room to its newest known message."""
        room = message.get("room", "")
        if room not in self.cursors:
            return
        stay = self._stays.setdefault(room, Stay())
        cursor = self.cursors[room] or {"epoch": "", "seq": 0}
        match message["type"]:
            case "joined" if not message["recovered"]:
                cursor = {"epoch": message["epoch"], "seq": message["seq"]}
            case "joined":  # missed messages follow, maybe in a new epoch
                cursor = {**cursor, "epoch": message["epoch"]}
            case "message" if stay.entered:
                cursor = {**cursor, "seq": message["seq"]}
            case "gap" if stay.entered:
                cursor = {**cursor, "seq": message["to"]}
            case _:
                return
        stay.entered = True
        self.cursors[room] = cursor

    def _fail_requests(self, close: Close | None) -> None:
        for request in (*self._waiting.values(), *self._returning.values()):
            if not request.answer.done():
                request.answer.set_exception(ConnectionError(_why(close)))
                request.answer.exception()
        self._waiting.clear()
        self._returning.clear()
        for stay in self._stays.values():
            stay.entered, stay.pending = False, 0


async def _send(connection: ClientConnection, data: bytes) -> None:
    """Send a text message.

    Raises ConnectionError, also when the server reads nothing for STUCK_TIMEOUT. The
    library would wait for ever, and so would its keepalive.
    """
    try:
        async with asyncio.timeout(STUCK_TIMEOUT):
            await connection.send(data, text=True)
    except ConnectionClosed as exc:
        await asyncio.sleep(0)  # let the reader run before a retry
        raise ConnectionError(_why(exc.rcvd)) from None
    except TimeoutError:
        connection.transport.abort()
        raise ConnectionError(
            f"the server read nothing for {STUCK_TIMEOUT:g} s"
        ) from None


async def _hang_up(connection: ClientConnection) -> None:
    """Close a connection; abort it if the peer does not answer, or does not read.

    Messages that come before the answer are read and dropped, because otherwise the
    library never reads the answer (python-websockets/websockets#1555).
    """
    try:
        async with asyncio.timeout(GOODBYE_TIMEOUT):
            await asyncio.gather(connection.close(), _skip(connection))
    except TimeoutError:
        pass
    finally:
        connection.transport.abort()


async def _skip(connection: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await connection.recv(decode=False)


def _message(data: str | bytes) -> Message:
    """Return a decoded message.

    Raises ValueError if it is not a JSON object with a type.
    """
    message = from_json(data)
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ValueError("not a JSON object with a type")
    return message


def _hello(data: str | bytes) -> Message:
    """Return the ``hello``; raise ConnectionError for any other message."""
    with contextlib.suppress(ValueError, RecursionError):
        message = _message(data)
        if message["type"] == "hello":
            return message
    raise ConnectionError("its first message is not a hello")


def _join(room: str, after: Message | None, presence: bool) -> Message:
    """Return a ``join`` message."""
    message: Message = {"type": "join", "room": room}
    if after:  # if its epoch is gone, all that the new one has is news
        message |= {"after": after, "from_start": True}
    return {**message, "presence": True} if presence else message


def _why(close: Close | None) -> str:
    """Return in words how a connection ended."""
    if close is None:
        return "the connection was lost"
    return f"closed with {close.code} {close.reason}".rstrip()


def _shown(url: str) -> str:
    """Return a URL without user, password and query, which may be secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
