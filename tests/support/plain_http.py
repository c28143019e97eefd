"""A client of the SSE port: requests on raw sockets, and event streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any

from labserver.contract.tokens import issue
from labserver.judge.world import PATIENCE, SECRET
from labserver.server.server import LabServer


@dataclass
class Answer:
    """A response: status, headers in lower case, body as JSON or text."""

    status: int
    headers: dict[str, str]
    body: Any


def request(
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] = {},
    token: str | None = None,
) -> bytes:
    """Return an HTTP/1.0 request: its response ends with the connection, unchunked."""
    token = issue(SECRET, "ann") if token is None else token
    fields = {
        "Host": "127.0.0.1",
        **({"Authorization": f"Bearer {token}"} if token else {}),
        **({"Content-Length": str(len(body))} if body else {}),
        **headers,
    }
    lines = [f"{name}: {value}\r\n" for name, value in fields.items()]
    return f"{method} {path} HTTP/1.0\r\n{''.join(lines)}\r\n".encode() + body


def answer(data: bytes) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): text for name, text in (at.split(": ", 1) for at in lines)}
    json_body = headers.get("content-type") == "application/json"
    text: Any = json.loads(body) if json_body else body.decode()
    return Answer(int(status.split()[1]), headers, text)


def port_of(server: LabServer) -> int:
    assert server.web is not None
    return int(server.web.url.rpartition(":")[2])


async def ask(
    server: LabServer | int,
    *arguments: Any,
    ssl: SSLContext | None = None,
    **more: Any,
) -> Answer:
    """Make one request and read the whole response."""
    port = server if isinstance(server, int) else port_of(server)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=ssl)
    try:
        writer.write(request(*arguments, **more))
        async with asyncio.timeout(PATIENCE):
            return answer(await reader.read())
    finally:
        writer.transport.abort()


async def post(server: LabServer | int, room: str, payload: Any, **more: Any) -> Answer:
    body = json.dumps(payload).encode()
    return await ask(server, "POST", f"/rooms/{room}", body, **more)


async def poll(
    server: LabServer | int, room: str, after: str = "", wait: float = 25, **more: Any
) -> Answer:
    cursor = f"&after={after}" if after else ""
    return await ask(server, "GET", f"/rooms/{room}/poll?wait={wait}{cursor}", **more)


@dataclass
class Event:
    """A server-sent event; ``data`` is decoded."""

    id: str = ""
    event: str = "message"
    retry: int | None = None
    data: Any = None


class Listener:
    """An open event stream."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.comments = 0

    async def next(self) -> Event | None:
        """Return the next event, or None at the end of the stream."""
        event = Event()
        async with asyncio.timeout(PATIENCE):
            while line := (await self.reader.readline()).decode():
                assert line.endswith("\n"), "the stream broke off within an event"
                name, _, value = line[:-1].partition(": ")
                if name == "id":
                    event.id = value
                elif name == "event":
                    event.event = value
                elif name == "retry":
                    event.retry = int(value)
                elif name == "data":
                    event.data = json.loads(value)
                elif line == "\n":
                    if event.data is not None:
                        return event
                else:
                    assert line.startswith(":"), line
                    self.comments += 1
        return None

    async def must(self) -> Event:
        event = await self.next()
        assert event is not None, "the stream is over"
        return event

    async def payloads(self, count: int) -> list[Any]:
        return [(await self.must()).data["payload"] for _ in range(count)]

    async def rest(self) -> list[Event]:
        """Return all events until the end."""
        events = []
        while (event := await self.next()) is not None:
            events.append(event)
        return events


@asynccontextmanager
async def listening(
    server: LabServer | int,
    room: str,
    last_id: str = "",
    path: str = "",
    limit: int = 2**20,
    headers: Mapping[str, str] = {},
    ssl: SSLContext | None = None,
    **more: Any,
) -> AsyncIterator[Listener]:
    """Open a stream, again while the server says to come later; close it at the end."""
    port = server if isinstance(server, int) else port_of(server)
    if last_id:
        headers = {**headers, "Last-Event-ID": last_id}
    asked = request("GET", path or f"/rooms/{room}", headers=headers, **more)
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(PATIENCE):
            while True:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, limit=limit, ssl=ssl
                )
                stack.callback(writer.transport.abort)
                writer.write(asked)
                head = await reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"HTTP/1.1 503 "):
                    break
                await asyncio.sleep(0.1)
        assert head.startswith(b"HTTP/1.1 200 "), head
        assert b"content-type: text/event-stream" in head
        yield Listener(reader, writer)
