"""A server of one's own, which keeps the promises of stages echo to backpressure.

It is what chapter 11 leads to, on `websockets` and PyJWT alone. Judge it with:

    labserver judge --stage backpressure -- python own_server.py
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
import uuid
from array import array
from collections.abc import Collection, Sequence
from fcntl import ioctl
from http.cookies import SimpleCookie
from termios import TIOCOUTQ
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

import jwt
from jwt.types import Options
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.typing import Subprotocol

STAGE = os.environ.get("LAB_STAGE", "backpressure")
SECRET = os.environ.get("LAB_SECRET", "")
INTERVAL = float(os.environ.get("LAB_HEARTBEAT_INTERVAL", "25"))  # seconds
OUTBOX_LIMIT = int(os.environ.get("LAB_OUTBOX_LIMIT", str(2**20)))  # bytes
STUCK_TIMEOUT = float(os.environ.get("LAB_STUCK_TIMEOUT", "10"))  # seconds
SIZE_LIMIT = 65536  # bytes of a message
ROOMS_LIMIT = 128  # rooms of a connection
ROOM_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
Message = dict[str, Any]


class Room:
    """The members of a room, and its numbering."""

    def __init__(self) -> None:
        self.members: set[Peer] = set()
        self.epoch, self.seq = uuid.uuid4().hex[:8], 0


class Peer(ServerConnection):
    """A connection, with what the promises need to know of it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.claims: Message = {"sub": "anonymous"}
        self.rooms: set[str] = set()
        self.seen = 0.0  # when its last bytes came
        self.given = 0  # bytes that were written to it
        self.deadline: asyncio.Timeout  # when its token expires

    @property
    def waiting(self) -> int:
        """Bytes that this process holds for it."""
        return self.transport.get_write_buffer_size()

    @property
    def taken(self) -> int:
        """Bytes that its kernel has acknowledged."""
        kernel = array("i", [0])  # what ours holds
        ioctl(self.transport.get_extra_info("socket"), TIOCOUTQ, kernel)
        return self.given - self.waiting - kernel[0]

    def data_received(self, data: bytes) -> None:
        self.seen = time.monotonic()
        super().data_received(data)


class BadMessage(Exception):
    """A code of the contract, and a sentence."""


rooms: dict[str, Room] = {}


# Stage echo


async def handle(peer: ServerConnection) -> None:
    assert isinstance(peer, Peer)
    watching = [asyncio.create_task(heartbeat(peer)), asyncio.create_task(stuck(peer))]
    try:
        async with asyncio.timeout(lifetime(peer)) as peer.deadline:
            about = {"id": uuid.uuid4().hex[:12], "user": peer.claims["sub"]}
            send([peer], "hello", **about, stage=STAGE, heartbeat=INTERVAL)
            async for text in peer:
                if isinstance(text, bytes):
                    await peer.close(1003, "text only")
                    return
                receive(peer, text)
    except (TimeoutError, jwt.PyJWTError):
        await peer.close(4401, "token invalid or expired")
    except ConnectionClosed:
        pass
    finally:
        for task in watching:
            task.cancel()
        for name in list(peer.rooms):
            leave(peer, name)


def receive(peer: Peer, text: str) -> None:
    ref: Message = {}
    try:
        said = json.loads(text, parse_constant=refuse)
        asks = isinstance(said, dict) and said.get("type") == "refresh"
        if STAGE == "echo" or (STAGE == "auth" and not asks):
            broadcast([peer], '{"type":"echo","payload":' + text + "}")
            return
        if not isinstance(said, dict):
            raise BadMessage("bad_message", "a message is an object")
        ref = {"ref": said["ref"]} if "ref" in said else {}
        answer(peer, said, ref)
    except (ValueError, RecursionError):
        send([peer], "error", code="bad_json", detail="this is not JSON", **ref)
    except BadMessage as exc:
        code, detail = exc.args
        send([peer], "error", code=code, detail=detail, **ref)


def refuse(name: str) -> NoReturn:
    """NaN and Infinity are Python's, not JSON's."""
    raise ValueError(name)


# Stage auth


def admit(peer: ServerConnection, request: Request) -> Response | None:
    """Refuse a stranger while the handshake is still HTTP."""
    assert isinstance(peer, Peer)
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("Host"):
        return peer.respond(403, "this origin may not connect\n")
    if STAGE == "echo" or "Upgrade" not in request.headers:
        return None
    try:
        peer.claims = claims_of(token_of(request))
    except jwt.PyJWTError:
        return peer.respond(401, "a token is needed\n")
    return None


def claims_of(token: str) -> Message:
    """Return what a token says; raise PyJWTError if it is not good."""
    needed = Options(require=["sub", "exp"])
    claims: Message = jwt.decode(token, SECRET, ["HS256"], options=needed)
    return claims


def token_of(request: Request) -> str:
    """Return the first token that is there, in the order of the contract."""
    headers = request.headers
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    if found := SimpleCookie(headers.get("Cookie", "")).get("lab_token"):
        return found.value
    for name in headers.get("Sec-WebSocket-Protocol", "").split(","):
        if name.strip().startswith("bearer."):
            return name.strip().removeprefix("bearer.")
    return parse_qs(urlsplit(request.path).query).get("token", [""])[0]


def refresh(peer: Peer, token: Any, ref: Message) -> None:
    """Go on with a new token of the same user; another one ends the connection."""
    claims = claims_of(token)
    if claims["sub"] != peer.claims["sub"]:
        raise jwt.InvalidTokenError("another user's")
    peer.claims = claims
    left = lifetime(peer)
    assert left is not None
    peer.deadline.reschedule(asyncio.get_running_loop().time() + left)
    send([peer], "refreshed", expires=claims["exp"], **ref)
    for name in [name for name in peer.rooms if not allowed(peer, name)]:
        leave(peer, name)
        send([peer], "left", room=name)


def lifetime(peer: Peer) -> float | None:
    """Return for how many seconds its token is good; None for ever."""
    return peer.claims["exp"] - time.time() if "exp" in peer.claims else None


# Stage rooms


def answer(peer: Peer, said: Message, ref: Message) -> None:
    kind, name = said.get("type"), said.get("room", "")
    if kind in ("join", "leave", "publish"):
        if not isinstance(name, str) or not ROOM_NAME.fullmatch(name):
            raise BadMessage("bad_message", "room is missing, or no name of a room")
        if kind != "leave" and not allowed(peer, name):
            raise BadMessage("forbidden", "the token does not cover this room")
    if kind in ("echo", "publish") and "payload" not in said:
        raise BadMessage("bad_message", "payload is missing")
    match kind:
        case "echo":
            send([peer], "echo", payload=said["payload"], **ref)
        case "ping":
            send([peer], "pong", **ref)
        case "join":
            join(peer, name, ref)
        case "leave":
            leave(peer, name)
            send([peer], "left", room=name, **ref)
        case "refresh":
            refresh(peer, said.get("token"), ref)
        case "publish":
            publish(peer, name, said["payload"], ref)
        case _:
            raise BadMessage("unknown_type", f"there is no type {kind!r:.40}")


def allowed(peer: Peer, name: str) -> bool:
    return any(
        name == each or (each.endswith("*") and name.startswith(each[:-1]))
        for each in peer.claims.get("rooms", ["*"])
    )


def join(peer: Peer, name: str, ref: Message) -> None:
    if len(peer.rooms | {name}) > ROOMS_LIMIT:
        raise BadMessage("room_limit", f"a connection may be in {ROOMS_LIMIT} rooms")
    room = rooms.setdefault(name, Room())
    room.members.add(peer)
    peer.rooms.add(name)
    numbering = {"epoch": room.epoch, "seq": room.seq, "recovered": False}
    send([peer], "joined", room=name, **numbering, **ref)


def leave(peer: Peer, name: str) -> None:
    peer.rooms.discard(name)
    if (room := rooms.get(name)) is not None:
        room.members.discard(peer)
        if not room.members:
            del rooms[name]


def publish(peer: Peer, name: str, payload: Any, ref: Message) -> None:
    room = rooms.get(name) or Room()  # one without members is not kept
    room.seq += 1
    about = {"room": name, "seq": room.seq, "from": peer.claims["sub"]}
    send(room.members, "message", **about, payload=payload)
    if ref:
        send([peer], "ack", room=name, seq=room.seq, **ref)


# Stage heartbeat


async def heartbeat(peer: Peer) -> None:
    """Ping once an interval; end a peer that shows no life in three quarters of it."""
    await asyncio.sleep(random.random() * INTERVAL)
    while INTERVAL:
        taken, pinged = peer.taken, time.monotonic()
        size = ping(peer)
        await asyncio.sleep(INTERVAL * 3 / 4)
        # Who reads slowly has the ping behind other data, and takes more than a ping.
        if peer.seen < pinged and peer.taken <= taken + size:
            peer.transport.abort()  # close() would wait for an answer of the dead
        await asyncio.sleep(INTERVAL / 4)


def ping(peer: Peer) -> int:
    """Send a ping, and wait for nothing: the library's ping() waits for room.

    Returns:
        Its size, in bytes.

    """
    if peer.state is not State.OPEN:
        return 0
    peer.protocol.send_ping(b"")
    data = b"".join(peer.protocol.data_to_send())
    peer.given += len(data)
    peer.transport.write(data)
    return len(data)


# Stage backpressure


def send(peers: Collection[Peer], kind: str, **fields: Any) -> None:
    """Send to all, wait for nobody, and end those who leave too much unread."""
    text = json.dumps({"type": kind, **fields})
    broadcast(peers, text)
    for peer in peers:
        peer.given += len(text)
        if peer.waiting > OUTBOX_LIMIT:
            peer.transport.abort()


async def stuck(peer: Peer) -> None:
    """End a peer that takes nothing, while something waits for it."""
    since, taken = time.monotonic(), 0
    while True:
        await asyncio.sleep(STUCK_TIMEOUT / 8)
        if not peer.waiting or peer.taken > taken:
            since, taken = time.monotonic(), peer.taken
        elif time.monotonic() - since > STUCK_TIMEOUT:
            peer.transport.abort()


def chosen(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol("lab.json") if "lab.json" in offered else None


async def main() -> None:
    async with serve(
        handle,
        "127.0.0.1",
        int(os.environ.get("PORT", "8080")),
        process_request=admit,
        create_connection=Peer,
        max_size=SIZE_LIMIT,
        ping_interval=None,
        select_subprotocol=chosen,
        compression=None,  # bytes are counted as they are written
    ) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
