"""The world of a probe: servers of one stage in this process, right or mistaken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from labserver.client import Client
from labserver.contract.tokens import issue
from labserver.errors import LabError
from labserver.http.door import open_web
from labserver.judge.oracle import Oracle
from labserver.mistakes import MISTAKES, build
from labserver.server.connection import LabConnection
from labserver.server.server import LabServer
from labserver.settings import Settings
from labserver.stages import STAGES, included

SECRET = "a secret of thirty-two bytes or more"
PATIENCE = 10.0  # seconds that a probe waits for an event


class Broken(LabError):
    """A promise was not kept; the message says what was seen."""


def must(kept: bool, otherwise: str) -> None:
    """Raise Broken with the message ``otherwise`` unless ``kept``."""
    if not kept:
        raise Broken(otherwise)


@dataclass(frozen=True)
class World:
    """A stage, optionally without some parts, or with a mistake.

    Args:
        stage: Name of the last stage.
        redis: URL of a Redis, for the stages that need one.
        without: Names of stages to leave out.
        mistake: Name of the mistake, or None for the right version.
        patience: Seconds to wait for an event.

    """

    stage: str
    redis: str = ""
    without: tuple[str, ...] = ()
    mistake: str | None = None
    patience: float = PATIENCE

    @asynccontextmanager
    async def running(self, **settings: Any) -> AsyncIterator[LabServer]:
        """Run a server until the block ends; ``settings`` replace the defaults."""
        chosen = Settings(**{"secret": SECRET, "drain_timeout": 0.5, **settings})
        if any(each.name == "broker" for each in included(self.stage, self.without)):
            chosen = replace(chosen, redis=self.redis)
        mistake = MISTAKES[self.mistake] if self.mistake else None
        served = mistake.name if mistake and mistake.extend else None
        parts = build(self.stage, chosen, self.without, served)
        async with LabServer(parts, chosen, self.stage, open_web=open_web) as server:
            yield server

    def client(self, server: LabServer, user: str = "ann") -> Client:
        """Return the lab's reconnecting client, or the mistaken one."""
        return self.make_client(server.url, issue(SECRET, user))

    @property
    def make_client(self) -> Callable[..., Client]:
        """The factory of clients: the lab's client, or the mistaken one."""
        return MISTAKES[self.mistake].client if self.mistake else Client

    def includes(self, stage: str) -> bool:
        """Return whether the world's stage is this one or a later one."""
        return STAGES[self.stage].number >= STAGES[stage].number

    @asynccontextmanager
    async def awaiting(self, what: str) -> AsyncIterator[None]:
        """Raise Broken if the block takes too long, or its connection is closed."""
        try:
            async with asyncio.timeout(self.patience):
                yield
        except TimeoutError:
            raise Broken(f"waited {self.patience:g} s in vain for {what}") from None
        except ConnectionClosed as exc:
            code = exc.rcvd.code if exc.rcvd else 1006
            raise Broken(f"closed with {code} before {what}") from None

    async def eventually(
        self, what: str, condition: Callable[[], bool | Awaitable[bool]]
    ) -> None:
        """Return as soon as a condition holds."""
        async with self.awaiting(what):
            await until(condition)


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

    def __init__(self, socket: ClientConnection, patience: float = PATIENCE) -> None:
        self.socket = socket
        self.patience = patience
        self.hello: dict[str, Any] = {}

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def recv(self) -> dict[str, Any]:
        async with asyncio.timeout(self.patience):
            message: dict[str, Any] = json.loads(await self.socket.recv())
            return message

    async def until(self, kind: str) -> dict[str, Any]:
        """Return the next message of a type; skip others."""
        while (message := await self.recv())["type"] != kind:
            pass
        return message

    async def ask(self, **message: Any) -> dict[str, Any]:
        """Send a message; return the answer with the same ref."""
        await self.send(**{"ref": "q", **message})
        ref = message.get("ref", "q")
        while (answer := await self.recv()).get("ref") != ref:
            pass
        return answer

    async def join(self, room: str, **more: Any) -> dict[str, Any]:
        return await self.ask(type="join", room=room, **more)

    async def publish(self, room: str, count: int, size: int = 0) -> list[int]:
        """Publish numbered payloads, each after the last one's ack; return the seqs."""
        seqs = []
        for number in range(count):
            payload = {"n": number, "pad": "x" * size}
            await self.send(type="publish", room=room, payload=payload, ref="p")
            seqs.append((await self.until("ack"))["seq"])
        return seqs

    async def heard(self) -> list[dict[str, Any]]:
        """Return all messages before the answer to a ping, that is all sent so far."""
        await self.send(type="ping", ref="all")
        messages = []
        while (message := await self.recv()).get("ref") != "all":
            messages.append(message)
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
        return self.socket.close_code or 1006


@asynccontextmanager
async def peer(
    server: LabServer | str,
    user: str = "ann",
    token: str | None = None,
    headers: dict[str, str] | None = None,
    **options: Any,
) -> AsyncIterator[Peer]:
    """Connect to a server and read the hello; close after the block."""
    url = server if isinstance(server, str) else server.url
    token = token or issue(SECRET, user)
    headers = {"Authorization": f"Bearer {token}"} if headers is None else headers
    options = {
        "ping_interval": None,
        "compression": None,
        "close_timeout": 1,
        **options,
    }
    async with connect(f"{url}/", additional_headers=headers, **options) as socket:
        client = Peer(socket)
        client.hello = await client.recv()
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


def connection_of(server: LabServer, user: str) -> LabConnection:
    """Return the server's side of a user's connection."""
    (found,) = [each for each in server.connections if each.identity.user == user]
    return found
