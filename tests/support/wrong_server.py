"""A server on ``websockets`` that does one thing wrong, by name: a program to judge.

Only what a check needs is right otherwise.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter, defaultdict
from typing import Any

import jwt
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

WRONG = sys.argv[1]


class Connection(ServerConnection):
    """A connection that may go without a goodbye."""

    def data_received(self, data: bytes) -> None:
        if WRONG == "no-goodbye" and data[0] == 0x88:
            return self.transport.abort()
        super().data_received(data)


def admit(connection: ServerConnection, request: Request) -> Response | None:
    print(request.path if WRONG == "prints" else "a handshake", flush=True)
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    token = bearer or request.path.rpartition("token=")[2]
    try:
        claims = jwt.decode(token, os.environ["LAB_SECRET"], ["HS256"])
    except jwt.PyJWTError:
        return Response(401, "Unauthorized", Headers({"Content-Length": "0"}), b"")
    rooms[connection], users[connection] = claims.get("rooms"), claims["sub"]
    return None


async def ping(socket: ServerConnection) -> None:
    """End a client whose pong does not come within an interval, even if it reads."""
    interval = float(os.environ["LAB_HEARTBEAT_INTERVAL"])
    while True:
        await asyncio.sleep(interval)
        try:
            async with asyncio.timeout(2 * interval):
                await (await socket.ping())
        except (TimeoutError, ConnectionClosed):
            return socket.transport.abort()


async def handle(socket: ServerConnection) -> None:
    kind = "welcome" if WRONG == "no-hello" else "hello"
    about = {"id": str(socket.id), "user": users[socket], "heartbeat": None}
    if WRONG == "no-interval":
        del about["heartbeat"]
    await send(socket, type=kind, **about)
    pinging = WRONG == "wants-pongs" and asyncio.create_task(ping(socket))
    try:
        while True:
            if WRONG == "each-fragment":
                async for part in socket.recv_streaming():
                    await answer(socket, json.loads(part))
            else:
                data = await socket.recv()
                if isinstance(data, bytes) and WRONG != "takes-binary":
                    return await socket.close(1003)
                await answer(socket, json.loads(data))
    except ConnectionClosed:
        pass
    finally:
        if pinging:
            pinging.cancel()


rooms: dict[ServerConnection, list[str] | None] = {}
users: dict[ServerConnection, str] = {}
members: defaultdict[str, set[ServerConnection]] = defaultdict(set)
seqs: dict[str, int] = {}
newest: Counter[str] = Counter()


async def answer(socket: ServerConnection, said: Any) -> None:
    if not isinstance(said, dict):
        if WRONG == "objects-only":
            raise TypeError("an object was expected")
        return await send(socket, type="error", code="bad_message")
    print(said.get("type"), flush=True)
    ref = {"ref": said["ref"]} if "ref" in said else {}
    about = {"room": said.get("room"), **ref}
    kind, allowed = said.get("type"), rooms[socket]
    room, publish = about["room"], kind == "publish"
    if kind in ("join", "publish") and (
        not isinstance(room, str)
        or (" " in room and WRONG != "any-name")
        or (publish and "payload" not in said and WRONG != "any-publish")
    ):
        return await send(socket, type="error", code="bad_message", **about)
    if WRONG == "ignores-claims" or (WRONG == "claims-at-join" and kind != "join"):
        allowed = None
    if "room" in said and allowed is not None and not may(said["room"], allowed):
        if WRONG == "forbids-and-sends" and kind == "publish":
            heard = {**said, "type": "message", "seq": 1, "ref": None}
            broadcast(members[said["room"]], json.dumps(heard))
        return await send(socket, type="error", code="forbidden", **about)
    counted = "" if WRONG == "counts-for-all" else said.get("room")
    match kind:
        case "join":
            members[room].add(socket)
            recovered = WRONG == "trusts-cursors" and "after" in said
            told = {"epoch": "e", "seq": newest[counted], "recovered": recovered}
            about["room"] = "lobby" if WRONG == "one-name" else room
            await send(socket, type="joined", **told, **about)
        case "leave":
            members[room].discard(socket)
            if WRONG == "counts-again":
                del newest[counted]
            await send(socket, type="left", **about)
        case "publish":
            key = said.get("key", "")
            if key not in seqs or WRONG == "ignores-keys":
                newest[counted] += 1
                if WRONG == "ends-publishers" and newest[counted] > 3:
                    return socket.transport.abort()
                seqs[key] = newest[counted]
                tell(users[socket], said, newest[counted])
            seq = seqs.pop("", 0) or seqs[key]
            for _ in range(2 if WRONG == "acks-twice" else 1):
                if ref or WRONG == "acks-all":
                    await send(socket, type="ack", seq=seq, **about)
        case "ping" if WRONG != "no-ping":
            await send(socket, type="pong", **about)
        case "echo":
            await send(socket, type="echo", payload=said.get("payload"))
        case _:
            code = "no_such_type" if WRONG == "own-words" else "unknown_type"
            await send(socket, type="error", code=code, **about)


def tell(user: str, said: dict[str, Any], seq: int) -> None:
    payload = said.get("payload")
    message = {
        "room": said["room"],
        "seq": seq,
        "from": "somebody" if WRONG == "nameless" else user,
        "payload": str(payload) if WRONG == "strings" else payload,
    }
    broadcast(members[said["room"]], json.dumps({"type": "message", **message}))


def may(room: str, allowed: list[str]) -> bool:
    return any(
        room == each or (each.endswith("*") and room.startswith(each[:-1]))
        for each in allowed
    )


async def send(socket: ServerConnection, **message: Any) -> None:
    await socket.send(json.dumps(message))


async def main() -> None:
    port = int(os.environ["PORT"])
    async with serve(
        handle, "127.0.0.1", port, process_request=admit, create_connection=Connection
    ) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
