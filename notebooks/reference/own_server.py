"""A server of one's own, which keeps the promises of all stages, echo to resume.

It is what chapter 11 leads to, on `websockets`, PyJWT and `redis` alone. Without Redis
(LAB_REDIS_URL) it is one process with rooms of its own. Judge it with:

    labserver judge --stage resume -- python own_server.py
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
from contextlib import suppress
from fcntl import ioctl
from http.cookies import SimpleCookie
from termios import TIOCOUTQ
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

import jwt
from jwt.types import Options
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.typing import Subprotocol

STAGE = os.environ.get("LAB_STAGE", "resume")
SECRET = os.environ.get("LAB_SECRET", "")
INTERVAL = float(os.environ.get("LAB_HEARTBEAT_INTERVAL", "25"))  # seconds
OUTBOX_LIMIT = int(os.environ.get("LAB_OUTBOX_LIMIT", str(2**20)))  # bytes
STUCK_TIMEOUT = float(os.environ.get("LAB_STUCK_TIMEOUT", "10"))  # seconds
REDIS_URL = os.environ.get("LAB_REDIS_URL", "")
HISTORY_LIMIT = int(os.environ.get("LAB_HISTORY_LIMIT", "1000"))  # messages of a room
HISTORY_TTL = float(os.environ.get("LAB_HISTORY_TTL", "300"))  # seconds
REDIS_TIMEOUT = 2.0  # seconds that Redis has to answer
BATCH = 256  # publishes in one round trip to Redis, and messages in one page
SIZE_LIMIT = 65536  # bytes of a message
ROOMS_LIMIT = 128  # rooms of a connection
ROOM_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
Message = dict[str, Any]


class Room:
    """The members of a room, and its numbering up to the last message they got."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.members: set[Peer] = set()
        self.epoch, self.seq = uuid.uuid4().hex[:8], 0


class SharedRoom(Room):
    """A room that is numbered in Redis. One task serves what comes in, in order."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.heard = asyncio.Event()  # whether Redis confirmed the subscription
        self.inbox: asyncio.Queue[Joining | str] = asyncio.Queue()
        self.behind = False  # whether messages found the inbox full
        self.task = asyncio.create_task(serve_room(self))


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


class Joining:
    """A peer that waits for its place in a shared room."""

    def __init__(self, peer: Peer, after: Message | None, ref: Message) -> None:
        self.peer, self.after, self.ref = peer, after, ref
        self.answered = asyncio.get_running_loop().create_future()


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
                await receive(peer, text)
    except (TimeoutError, jwt.PyJWTError):
        await peer.close(4401, "token invalid or expired")
    except ConnectionClosed:
        pass
    finally:
        for task in watching:
            task.cancel()
        for name in list(peer.rooms):
            leave(peer, name)


async def receive(peer: Peer, text: str) -> None:
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
        await answer(peer, said, ref)
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


async def answer(peer: Peer, said: Message, ref: Message) -> None:
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
            await join(peer, name, said.get("after"), ref)
        case "leave":
            leave(peer, name)
            send([peer], "left", room=name, **ref)
        case "refresh":
            refresh(peer, said.get("token"), ref)
        case "publish":
            await publish(peer, name, said, ref)
        case _:
            raise BadMessage("unknown_type", f"there is no type {kind!r:.40}")


def allowed(peer: Peer, name: str) -> bool:
    return any(
        name == each or (each.endswith("*") and name.startswith(each[:-1]))
        for each in peer.claims.get("rooms", ["*"])
    )


async def join(peer: Peer, name: str, after: Any, ref: Message) -> None:
    if len(peer.rooms | {name}) > ROOMS_LIMIT:
        raise BadMessage("room_limit", f"a connection may be in {ROOMS_LIMIT} rooms")
    match after:
        case None | {"epoch": str(), "seq": int()}:
            pass
        case _:
            raise BadMessage("bad_message", "after is no cursor")
    if REDIS_URL:
        await join_shared(peer, name, after, ref)
        return
    room = rooms.setdefault(name, Room(name))
    welcome(peer, room, False, ref)


def welcome(peer: Peer, room: Room, recovered: bool, ref: Message) -> None:
    room.members.add(peer)
    peer.rooms.add(room.name)
    numbering = {"epoch": room.epoch, "seq": room.seq, "recovered": recovered}
    send([peer], "joined", room=room.name, **numbering, **ref)


def leave(peer: Peer, name: str) -> None:
    peer.rooms.discard(name)
    if (room := rooms.get(name)) is not None and peer in room.members:
        room.members.discard(peer)
        if isinstance(room, SharedRoom):
            room.inbox.put_nowait(NOTHING)  # its task looks whether it is empty
        elif not room.members:
            del rooms[name]


async def publish(peer: Peer, name: str, said: Message, ref: Message) -> None:
    key = said.get("key", "-")
    if not isinstance(key, str) or not 1 <= len(key) <= 128:
        raise BadMessage("bad_message", "a key has 1 to 128 characters")
    if REDIS_URL:
        await outbox.put((peer, name, said, ref))  # waits while Redis is slow
        return
    room = rooms.get(name) or Room(name)  # one without members is not kept
    room.seq += 1
    about = {"room": name, "seq": room.seq, "from": peer.claims["sub"]}
    send(room.members, "message", **about, payload=said["payload"])
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
    pass_on(peers, json.dumps({"type": kind, **fields}))


def pass_on(peers: Collection[Peer], text: str) -> None:
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


# Stage broker: Redis numbers, keeps and passes on; each process hears its own rooms

AGAIN, NOTHING = "again", ""  # in an inbox: messages may be missed; only look around
INBOX_LIMIT = 1000  # messages that wait while a room's task waits for Redis
NUMBERING_TTL = 3600.0  # seconds that a room keeps its numbering without a message
KEY_TTL = 300.0  # seconds in which a key counts
# A message's ID in the stream is its seq, so a cursor is a place in the stream.
NUMBERING = """
local room, history = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function number()
  if redis.call('HSETNX', room, 'epoch', ARGV[1]) == 1 then
    redis.call('HSET', room, 'seq', 0)
    redis.call('DEL', history)
  end
  redis.call('PEXPIRE', room, ARGV[2])
end
"""
PUBLISH = (
    NUMBERING
    + """
local known = KEYS[3] and redis.call('GET', KEYS[3])
if known then return tonumber(known) end
number()
local seq = redis.call('HINCRBY', room, 'seq', 1)
local text = ARGV[3] .. seq .. ARGV[4]
redis.call('XADD', history, 'MAXLEN', ARGV[5], seq .. '-1', 'at', now, 'text', text)
redis.call('PEXPIRE', history, ARGV[6])
if KEYS[3] then redis.call('SET', KEYS[3], seq, 'PX', ARGV[7]) end
local epoch = redis.call('HGET', room, 'epoch')
redis.call('PUBLISH', room, epoch .. ' ' .. seq .. ' ' .. text)
return seq
"""
)
READ = (
    NUMBERING
    + """
number()
local epoch, seq = unpack(redis.call('HMGET', room, 'epoch', 'seq'))
local answer = {epoch, tonumber(seq)}
local first = string.format('%d', ARGV[3] + 1)
for _, each in ipairs(redis.call('XRANGE', history, first, '+', 'COUNT', ARGV[4])) do
  local fields = each[2]
  table.insert(answer, tonumber(string.match(each[1], '%d+')))
  table.insert(answer, now - fields[2] > tonumber(ARGV[5]) and '' or fields[4])
end
return answer
"""
)
Publish = tuple[Peer, str, Message, Message]  # who, where, what was said, and its ref
outbox: asyncio.Queue[Publish] = asyncio.Queue(4 * BATCH)
redis: Redis = Redis.from_url(
    REDIS_URL or "redis://",
    protocol=2,
    decode_responses=True,
    retry=Retry(NoBackoff(), 0),  # a publish that is repeated would be there twice
    socket_timeout=REDIS_TIMEOUT,
    socket_connect_timeout=REDIS_TIMEOUT,
)
link: PubSub | None = None  # while it is connected


def ms(seconds: float) -> int:
    return int(seconds * 1000)


def numbered(name: str) -> tuple[list[str], list[Any]]:
    """Return the keys and arguments that both scripts begin with."""
    epoch = uuid.uuid4().hex[:8]  # if the room has none
    keys = [f"own:{{{name}}}", f"own:{{{name}}}:history"]
    return keys, [epoch, ms(NUMBERING_TTL + HISTORY_TTL)]


async def publish_all() -> None:
    """Publish what waits, all in one round trip, and tell who wants to know."""
    while True:
        batch = [await outbox.get()]
        while not outbox.empty() and len(batch) < BATCH:
            batch.append(outbox.get_nowait())
        pipeline = redis.pipeline(transaction=False)
        for peer, name, said, _ in batch:
            keys, arguments = numbered(name)
            if "key" in said:
                keys.append(keys[0] + json.dumps([peer.claims["sub"], said["key"]]))
            about = {"type": "message", "from": peer.claims["sub"], "room": name}
            head = json.dumps(about)[:-1] + ', "seq": '
            tail = ', "payload": ' + json.dumps(said["payload"]) + "}"
            arguments += [head, tail, HISTORY_LIMIT, ms(HISTORY_TTL), ms(KEY_TTL)]
            pipeline.eval(PUBLISH, len(keys), *keys, *arguments)
        answers: list[Any]
        try:
            answers = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as exc:
            answers = [exc] * len(batch)
        for (peer, name, _, ref), seq in zip(batch, answers, strict=True):
            if not isinstance(seq, int):
                send([peer], "error", code="broker_down", detail="try again", **ref)
            elif ref:
                send([peer], "ack", room=name, seq=seq, **ref)


async def read(name: str, after: int) -> tuple[str, int, list[tuple[int, str]]]:
    """Return epoch, newest seq, and a page of messages; too old ones are empty."""
    keys, arguments = numbered(name)
    arguments += [after, BATCH, ms(HISTORY_TTL)]
    answer: Any = redis.eval(READ, len(keys), *keys, *arguments)
    epoch, seq, *page = await answer
    return epoch, seq, list(zip(page[::2], page[1::2], strict=True))


async def listen() -> None:
    """Hear the rooms that have members here; connect again whenever the link breaks."""
    global link
    while True:
        try:
            async with redis.pubsub() as fresh:
                await fresh.subscribe("own")  # a link is never without a subscription
                link = fresh
                if rooms:
                    await link.subscribe(*(f"own:{{{name}}}" for name in rooms))
                silent = False
                while True:
                    said = await link.get_message(timeout=REDIS_TIMEOUT / 2)
                    if said is not None:
                        silent = False
                        hear(said)
                    elif silent:
                        break  # not even the answer to a ping came
                    else:
                        silent = True
                        await link.ping()
        except (RedisError, OSError):
            pass
        finally:
            link = None
        # What broke the link has broken the idle connections, too.
        await redis.connection_pool.disconnect(inuse_connections=False)
        await asyncio.sleep(0.1)


def hear(said: Message) -> None:
    room = rooms.get(str(said["channel"])[5:-1])
    if not isinstance(room, SharedRoom):
        return
    if said["type"] == "message":
        if room.inbox.qsize() < INBOX_LIMIT:
            room.inbox.put_nowait(said["data"])
        elif not room.behind:  # a look at the history replaces all that come now
            room.behind = True
            room.inbox.put_nowait(AGAIN)
    elif said["type"] == "subscribe":
        if room.heard.is_set():  # the link was broken
            room.inbox.put_nowait(AGAIN)
        room.heard.set()


async def serve_room(room: SharedRoom) -> None:
    """Serve joins and messages one after the other, until nobody is there."""
    while room.members or not room.inbox.empty():
        news = await room.inbox.get()
        try:
            if isinstance(news, Joining):
                await admit_member(room, news)
            elif news and room.members:
                await take(room, news)
        except (RedisError, OSError, TimeoutError):
            if isinstance(news, Joining):
                if not news.answered.done():
                    down = BadMessage("broker_down", "Redis does not answer")
                    news.answered.set_exception(down)
            else:
                later = asyncio.get_running_loop().call_later
                later(0.2, room.inbox.put_nowait, AGAIN)
        if not room.members and room.inbox.empty():
            room.heard.clear()
            with suppress(RedisError, OSError):
                if link is not None:
                    await link.unsubscribe(f"own:{{{room.name}}}")
    del rooms[room.name]


async def take(room: SharedRoom, news: str) -> None:
    """Pass on the next message; whatever else comes, the history tells what it is."""
    if news != AGAIN:
        epoch, seq, text = news.split(" ", 2)
        if epoch == room.epoch and int(seq) <= room.seq:
            return
        if epoch == room.epoch and int(seq) == room.seq + 1:
            room.seq += 1
            pass_on(room.members, text)
            return
    await catch_up(room)


async def catch_up(room: SharedRoom) -> None:
    """Pass on what the history has, and tell the members what it has not."""
    room.behind = False
    while True:
        epoch, newest, page = await read(room.name, room.seq)
        if epoch != room.epoch:  # Redis has forgotten the room: begin again
            room.epoch, room.seq = epoch, 0
            numbering = {"epoch": epoch, "seq": 0, "recovered": False}
            send(room.members, "joined", room=room.name, **numbering)
            continue
        for seq, text in page:
            lose(room, seq - 1 if text else seq)
            if text:
                room.seq = seq
                pass_on(room.members, text)
        if len(page) < BATCH:
            lose(room, newest)
            return


def lose(room: SharedRoom, last: int) -> None:
    """Tell the members that the next messages, up to this one, are gone."""
    if last > room.seq:
        about = {"room": room.name, "from": room.seq + 1, "to": last}
        send(room.members, "gap", **about, reason="broker")
        room.seq = last


# Stage resume


async def join_shared(
    peer: Peer, name: str, after: Message | None, ref: Message
) -> None:
    room = rooms.get(name)
    if room is None:
        room = rooms[name] = SharedRoom(name)
    assert isinstance(room, SharedRoom)
    joining = Joining(peer, after if STAGE == "resume" else None, ref)
    room.inbox.put_nowait(joining)
    await joining.answered


async def admit_member(room: SharedRoom, joining: Joining) -> None:
    """Bring the room up to date, then let somebody in: nothing falls in between."""
    if not room.heard.is_set():
        if link is not None:
            await link.subscribe(f"own:{{{room.name}}}")
        async with asyncio.timeout(REDIS_TIMEOUT):
            await room.heard.wait()
    if room.members:
        await catch_up(room)
    else:
        room.epoch, room.seq, _ = await read(room.name, 2**52)
    replay = await missed(room, joining)
    if not joining.answered.done():  # it may be gone
        welcome(joining.peer, room, replay is not None, joining.ref)
        for text in replay or ():
            pass_on([joining.peer], text)
        joining.answered.set_result(None)


async def missed(room: SharedRoom, joining: Joining) -> list[str] | None:
    """Return all messages after a cursor; None if some are gone, or are too many."""
    after, replay = joining.after, list[str]()
    if not after or after["epoch"] != room.epoch or not 0 <= after["seq"] <= room.seq:
        return None
    reached, size = after["seq"], joining.peer.waiting
    while reached < room.seq:
        epoch, _, page = await read(room.name, reached)
        if epoch != room.epoch or not page:
            return None
        for seq, text in page[: room.seq - reached]:
            if seq != reached + 1 or not text:
                return None
            reached, size = seq, size + len(text)
            replay.append(text)
        if size > OUTBOX_LIMIT:
            return None
    return replay


def chosen(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol("lab.json") if "lab.json" in offered else None


async def main() -> None:
    async with (
        asyncio.TaskGroup() as tasks,
        serve(
            handle,
            "127.0.0.1",
            int(os.environ.get("PORT", "8080")),
            process_request=admit,
            create_connection=Peer,
            max_size=SIZE_LIMIT,
            ping_interval=None,
            select_subprotocol=chosen,
            compression=None,  # bytes are counted as they are written
        ) as server,
    ):
        if REDIS_URL:
            tasks.create_task(listen())
            tasks.create_task(publish_all())
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
