"""The clients of a check: they speak JSON over plain WebSockets, and note it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect

from labserver.contract.tokens import issue
from labserver.judge.evidence import note
from labserver.judge.oracle import Oracle
from labserver.judge.outcomes import Broken

SECRET = "a secret of thirty-two bytes or more"
PATIENCE = 10.0  # seconds that a check waits for what must happen

# What a check reads of a message. What else a server adds is its own affair.
FIELDS: dict[str, dict[str, type]] = {
    "joined": {"room": str, "epoch": str, "seq": int, "recovered": bool},
    "message": {"room": str, "seq": int},
    "gap": {"room": str, "from": int, "to": int},
    "ack": {"room": str, "seq": int},
    "left": {"room": str},
    "error": {"code": str},
}


class Served(Protocol):
    """A server that runs somewhere."""

    @property
    def url(self) -> str: ...


@dataclass(frozen=True)
class Place:
    """A server that is seen from outside only.

    Attributes:
        url: ``ws://`` address.
        secret: What its tokens are signed with.

    """

    url: str
    secret: str = field(repr=False)


def secret_of(server: Served | str) -> str:
    """Return what signs a server's tokens."""
    return server.secret if isinstance(server, Place) else SECRET


def door_of(server: Served | str) -> str:
    """Return the URL to connect to; a path of its own is for one that was given."""
    url = server if isinstance(server, str) else server.url
    return url if urlsplit(url).path else f"{url}/"


def address_of(server: Served | str) -> tuple[str, int]:
    """Return a server's host and port."""
    parts = urlsplit(server if isinstance(server, str) else server.url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "wss" else 80)


class Message(dict[str, Any]):
    """A message of a server; one without the field that is asked for is its fault."""

    def __missing__(self, key: str) -> Any:
        raise Broken(f"a message without {key}: {_shown(self)}")


def understood(data: str | bytes) -> Message:
    """Return a server's message.

    Raises:
        Broken: It is none that the wire contract knows.

    """
    try:
        message = Message(json.loads(data))
    except (ValueError, TypeError):
        raise Broken(f"sent what is no JSON object: {_shown(data)}") from None
    kind = message["type"]
    for name, wanted in FIELDS.get(str(kind), {}).items():
        value = message[name]
        if not isinstance(value, wanted) or (wanted is int and value is True):
            raise Broken(f"{name} of {kind} should be {wanted.__name__}: {value!r:.60}")
    return message


def _shown(data: Any) -> str:
    text = repr(dict(data)) if isinstance(data, dict) else repr(data)
    return text if len(text) <= 120 else text[:119] + "…"


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Return as soon as a condition holds."""
    task = asyncio.current_task()
    assert task is not None
    cancelled = task.cancelling()
    while True:
        holds = condition()
        if await holds if isinstance(holds, Awaitable) else holds:
            return
        if task.cancelling() > cancelled:
            # The condition swallowed the cancellation, as asyncio.wait_for does before
            # Python 3.12 (python/cpython#86296); without this, a deadline would never
            # end the loop.
            raise asyncio.CancelledError
        await asyncio.sleep(0.005)


class Peer:
    """A plain WebSocket client that speaks JSON."""

    def __init__(
        self, socket: ClientConnection, patience: float = PATIENCE, name: str = "client"
    ) -> None:
        self.socket = socket
        self.patience = patience
        self.name = name
        self.hello: dict[str, Any] = {}

    async def send(self, **message: Any) -> None:
        await self.say(json.dumps(message))

    async def say(self, text: str) -> None:
        """Send a text, whatever it is."""
        note(self.name, "sent", text)
        await self.socket.send(text)

    async def recv(self) -> dict[str, Any]:
        async with asyncio.timeout(self.patience):
            data = await self.socket.recv()
        text = data if isinstance(data, str) else repr(data)
        note(self.name, "received", text)
        return understood(data)

    async def until(self, kind: str) -> dict[str, Any]:
        """Return the next message of a type; skip others."""
        while (message := await self.recv())["type"] != kind:
            pass
        return message

    async def ask(self, **message: Any) -> dict[str, Any]:
        """Send a message; return the answer with the same ref."""
        ref = message.setdefault("ref", "q")
        await self.send(**message)
        while (answer := await self.recv()).get("ref") != ref:
            pass
        return answer

    async def join(self, room: str, **more: Any) -> dict[str, Any]:
        answer = await self.ask(type="join", room=room, **more)
        named = answer.get("room", room)
        if named != room:
            raise Broken(f"a join of {room} was answered with room {named!r:.40}")
        return answer

    async def publish(self, room: str, count: int, size: int = 0) -> list[int]:
        """Publish numbered payloads, each after the last one's ack; return the seqs."""
        seqs = []
        for number in range(count):
            payload = {"n": number, "pad": "x" * size}
            await self.send(type="publish", room=room, payload=payload, ref="p")
            while (answer := await self.recv())["type"] not in ("ack", "error"):
                pass
            if answer["type"] == "error":
                detail = answer.get("detail")
                raise Broken(f"a publish was answered {answer['code']}: {detail}")
            seqs.append(answer["seq"])
        return seqs

    async def heard(self) -> list[dict[str, Any]]:
        """Return all messages before the answer to a ping, that is all sent so far."""
        await self.send(type="ping", ref="all")
        messages = []
        while (message := await self.recv()).get("ref") != "all":
            messages.append(message)
        kind = message["type"]
        if kind != "pong":
            raise Broken(f"a ping was answered {message.get('code', kind)}, not pong")
        return messages

    async def hear_until(self, oracle: Oracle, room: str, seq: int) -> None:
        """Show messages to an oracle until it has ``seq``, or a gap for it.

        An acknowledged message may still be on its way from Redis to a member's server.
        """
        while (oracle.cursor(room) or {"seq": 0})["seq"] < seq:
            oracle.saw(await self.recv())
        for message in await self.heard():
            oracle.saw(message)

    async def closed(self) -> int:
        """Wait for the end of the connection; return the close code."""
        async with asyncio.timeout(self.patience):
            await self.socket.wait_closed()
        why = f"{self.socket.close_code} {self.socket.close_reason or ''}".rstrip()
        note(self.name, "received", f"close {why}")
        return self.socket.close_code or 1006


@asynccontextmanager
async def peer(
    server: Served | str,
    user: str = "ann",
    token: str | None = None,
    headers: dict[str, str] | None = None,
    **options: Any,
) -> AsyncIterator[Peer]:
    """Connect to a server and read the hello; close after the block."""
    token = token or issue(secret_of(server), user)
    headers = {"Authorization": f"Bearer {token}"} if headers is None else headers
    options = {
        "ping_interval": None,
        "compression": None,
        "close_timeout": 1,
        **options,
    }
    address = door_of(server)
    async with connect(address, additional_headers=headers, **options) as socket:
        note(user, "opened", "a connection")
        client = Peer(socket, name=user)
        try:
            client.hello = await client.recv()
        except TimeoutError:
            raise Broken(
                f"waited {client.patience:g} s in vain for a hello: the handshake was "
                "answered, and no message follows"
            ) from None
        yield client


async def stalled(port: int, room: str = "lobby") -> asyncio.StreamWriter:
    """Connect a member that reads its ``joined`` and never reads again.

    The caller must abort the transport of the returned writer.
    """
    token = issue(SECRET, "sloth")
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(
        f"GET /?token={token} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    join = json.dumps({"type": "join", "room": room}).encode()
    writer.write(bytes((0x81, 0x80 | len(join), 0, 0, 0, 0)) + join)
    await reader.readuntil(b'"joined"')
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    return writer
