"""Clients of a server: a plain one, a crowd, a raw socket, and one that never reads."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from labserver.contract.plain_json import from_json, to_json
from labserver.processes.cluster import Replica

Message = dict[str, Any]

DEADLINE = 5.0  # seconds that a chapter waits for any event


class Peer:
    """A plain client that keeps the messages that it receives.

    Attributes:
        hello: The server's first message.
        received: Every message after it, in the order of arrival.
        arrived: For each message, when it arrived, on :func:`time.monotonic`'s clock.

    """

    def __init__(self, connection: ClientConnection, hello: Message) -> None:
        self.connection = connection
        self.hello = hello
        self.received: list[Message] = []
        self.arrived: list[float] = []
        self._refs = itertools.count(1)
        self._news = asyncio.Event()

    def of(self, kind: str) -> list[Message]:
        """Return the messages of one type, such as ``"message"``."""
        return [each for each in self.received if each.get("type") == kind]

    @property
    def payloads(self) -> list[Any]:
        """Payloads of all room messages, in the order of arrival."""
        return [each["payload"] for each in self.of("message")]

    @property
    def heard(self) -> dict[Any, float]:
        """Time of arrival of each room message, by payload; payloads must differ."""
        pairs = zip(self.received, self.arrived, strict=True)
        return {m["payload"]: at for m, at in pairs if m.get("type") == "message"}

    async def send(self, **message: Any) -> None:
        """Send a message, and do not wait for an answer."""
        await self.connection.send(to_json(message))

    async def ask(self, **message: Any) -> Message:
        """Send a message with a ``ref``; return the answer that carries it.

        Raises:
            TimeoutError: No answer came within five seconds.

        """
        ref = f"r{next(self._refs)}"
        await self.send(**message, ref=ref)
        await self.until(lambda: any(m.get("ref") == ref for m in self.received))
        for answer in self.received:
            if answer.get("ref") == ref:
                return answer
        raise TimeoutError(f"no answer to {message['type']!r} within {DEADLINE:g} s")

    async def join(self, room: str, after: Message | None = None) -> Message:
        """Join a room; return the ``joined``. ``after`` is a cursor."""
        more = {"after": after} if after else {}
        return await self.ask(type="join", room=room, **more)

    async def publish(self, room: str, *payloads: Any) -> None:
        """Publish payloads in one write, so that the server reads them together."""
        protocol = self.connection.protocol
        for payload in payloads:
            message = {"type": "publish", "room": room, "payload": payload}
            protocol.send_text(to_json(message).encode())
        self.connection.transport.write(b"".join(protocol.data_to_send()))
        await asyncio.sleep(0)

    async def until(
        self, condition: Callable[[], object], within: float = DEADLINE
    ) -> bool:
        """Wait until a condition holds, at most ``within`` seconds; return whether it
        does.

        The condition is checked whenever a message arrives.

        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        return bool(condition())

    async def messages(self, count: int, within: float = DEADLINE) -> bool:
        """Wait for ``count`` room messages in all; return whether they came in time."""
        return await self.until(lambda: len(self.of("message")) >= count, within)

    async def closed(self, within: float = DEADLINE) -> str:
        """Wait for the end of the connection; return code and reason, or ``"open"``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self.connection.wait_closed()
        code = self.connection.close_code
        return f"{code} {self.connection.close_reason}".rstrip() if code else "open"

    async def listen(self) -> None:
        """Keep all messages that arrive, until the connection ends."""
        with contextlib.suppress(ConnectionClosed):
            async for text in self.connection:
                arrived = time.monotonic()
                try:
                    message = from_json(text)
                except (ValueError, RecursionError):
                    continue  # a malformed message must not end this loop
                self.arrived.append(arrived)
                self.received.append(message)
                self._news.set()
        self._news.set()


@asynccontextmanager
async def connected(
    server: Replica,
    user: str = "ann",
    room: str = "",
    *,
    rooms: Sequence[str] | None = None,
    ttl: float = 3600,
) -> AsyncIterator[Peer]:
    """Connect with a token, and join a room if one is named.

    Args:
        server: The server.
        user: Name in the token.
        room: Room to join; ``""`` for none.
        rooms: Rooms that the token allows; None for every room.
        ttl: Seconds until the token expires.

    """
    headers = {"Authorization": f"Bearer {server.token(user, rooms, ttl)}"}
    async with connect(
        server.url,
        additional_headers=headers,
        compression=None,
        ping_interval=None,
        close_timeout=1,
        max_size=None,
    ) as connection:
        peer = Peer(connection, from_json(await connection.recv()))
        task = asyncio.create_task(peer.listen())
        try:
            if room:
                await peer.join(room)
            yield peer
        finally:
            task.cancel()
            # ``await task`` could not tell its cancellation from our own.
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def crowd(
    server: Replica, count: int, room: str = ""
) -> AsyncIterator[list[Peer]]:
    """Connect ``count`` peers, named ``peer-1`` and so on."""
    async with AsyncExitStack() as stack:
        peers = []
        for number in range(1, count + 1):
            peer = connected(server, f"peer-{number}", room)
            peers.append(await stack.enter_async_context(peer))
        yield peers


class RawSocket:
    """A TCP connection to a server, without any WebSocket library."""

    def __init__(
        self,
        server: Replica,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer

    async def send(self, data: str | bytes) -> None:
        """Send bytes, or text in the encoding of HTTP heads (Latin-1)."""
        self.writer.write(data.encode("latin-1") if isinstance(data, str) else data)
        await self.writer.drain()

    async def read(self, within: float = DEADLINE) -> bytes:
        """Return the next bytes; ``b""`` at the end of the connection."""
        async with asyncio.timeout(within):
            return await self.reader.read(65536)

    async def upgrade(self) -> str:
        """Ask for a WebSocket, read past the ``hello``, and return the response."""
        await self.send(asked(self.server, {}))
        response = await self.response()
        await self.frames(1)
        return response

    async def say(self, text: str) -> None:
        """Send a text message in one frame, masked."""
        frame = Frame(Opcode.TEXT, text.encode())
        await self.send(frame.serialize(mask=True))

    async def frames(self, count: int, within: float = DEADLINE) -> bytes:
        """Return the bytes of the next ``count`` frames; a server's are not masked."""
        frames = b""
        async with asyncio.timeout(within):
            for _ in range(count):
                head = await self.reader.readexactly(2)
                more = {126: 2, 127: 8}.get(head[1], 0)
                longer = await self.reader.readexactly(more)
                length = int.from_bytes(longer) if more else head[1]
                frames += head + longer + await self.reader.readexactly(length)
        return frames

    async def response(self) -> str:
        """Return the head of an HTTP response, up to and with its empty line."""
        async with asyncio.timeout(DEADLINE):
            return (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")


@asynccontextmanager
async def raw(server: Replica) -> AsyncIterator[RawSocket]:
    """Open a TCP connection to a server, and send nothing."""
    reader, writer = await asyncio.open_connection(*_place(server))
    try:
        yield RawSocket(server, reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def upgrade(server: Replica, target: str = "/", **headers: str) -> str:
    """Ask for a WebSocket; return the status line, and the body if it is a refusal.

    Args:
        server: The server.
        target: Path and query.
        headers: Further headers; ``_`` in a name becomes ``-``.

    """
    async with raw(server) as wire:
        await wire.send(asked(server, headers, target))
        head = await wire.response()
        status = head.partition("\r\n")[0].removeprefix("HTTP/1.1 ")
        if status.startswith("101"):
            return status
        return f"{status}: {(await wire.read()).decode().strip()}"


def asked(server: Replica, headers: Mapping[str, str], target: str = "/") -> str:
    """Return the request for a WebSocket, with further headers."""
    host, port = _place(server)
    fields = {
        "Host": f"{host}:{port}",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([f"GET {target} HTTP/1.1", *lines, "", ""])


@asynccontextmanager
async def silent(
    server: Replica, count: int = 1, room: str = "", receive_buffer: int = 0
) -> AsyncIterator[list[socket.socket]]:
    """Connect peers that never read again, as if their network had vanished.

    Their kernel still acknowledges TCP segments until its buffer is full, so the server
    can only notice them by answers that do not come.

    Args:
        server: The server.
        count: How many peers.
        room: Room that they join first; ``""`` for none.
        receive_buffer: ``SO_RCVBUF`` in bytes; 0 for the kernel's choice.

    """
    async with AsyncExitStack() as stack:
        sockets = []
        for number in range(1, count + 1):
            sock = stack.enter_context(socket.socket())
            if receive_buffer:  # must be set before the connection is made
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            async with asyncio.timeout(DEADLINE):
                await _greet(sock, server, f"silent-{number}", room)
            sockets.append(sock)
        yield sockets


async def _greet(sock: socket.socket, server: Replica, user: str, room: str) -> None:
    """Shake hands, join a room, and read no further than the ``joined``."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    await loop.sock_connect(sock, _place(server))
    protocol = ClientProtocol(parse_uri(server.url), max_size=None)
    request = protocol.connect()
    request.headers["Authorization"] = f"Bearer {server.token(user)}"
    protocol.send_request(request)
    wanted, asked = b'"joined"' if room else b'"hello"', not room
    while True:
        await loop.sock_sendall(sock, b"".join(protocol.data_to_send()))
        data = await loop.sock_recv(sock, 65536)
        if not data:
            raise ConnectionError("the server ended the connection")
        protocol.receive_data(data)
        frames = [
            each for each in protocol.events_received() if isinstance(each, Frame)
        ]
        if any(wanted in bytes(frame.data) for frame in frames):
            return
        if protocol.state is State.OPEN and not asked:
            asked = True
            protocol.send_text(to_json({"type": "join", "room": room}).encode())


def _place(server: Replica) -> tuple[str, int]:
    parts = urlsplit(server.url)
    assert parts.hostname is not None and parts.port is not None
    return parts.hostname, parts.port
