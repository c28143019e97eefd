"""The clients of a simulated world: what they do, and what they were told.

Each is the real client, in a process of its own. Some publish, with a key and until
there is an answer. Some leave their room and come back, or close their connection and
open another one with the cursor that they had. Each one has an oracle.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from labserver.client import Backoff, Client, Rejected, ServerError
from labserver.judge.oracle import Oracle
from labserver.simulated.loop import Process

Note = Callable[[str, str, str], None]  # who, which way, what
PORT = 8080
PAUSE = 0.1  # seconds until a publish is tried again
ROLES = ("speaker", "listener", "wanderer", "speaker", "guest", "slow")
BIG = 3000  # bytes of a message now and then


class Older(Client):
    """A client that does not know ``from_start``, as programs written before it."""

    def _asking(self, message: dict[str, Any]) -> Any:
        message.pop("from_start", None)
        return super()._asking(message)

    async def _answer_to(self, message: dict[str, Any]) -> dict[str, Any]:
        message.pop("from_start", None)
        return await super()._answer_to(message)


class Member:
    """One client.

    Args:
        process: Its process.
        number: Its number, which decides what it does.
        rooms: Names of all rooms; it joins the first of them, or two.
        url: Returns the URL of a server.
        token: Returns a token for a user.
        serving: Returns the process in which a replica runs now, by its name.
        note: Called with whatever it sends and receives.
        pause: Seconds between two publishes, on average.

    """

    def __init__(
        self,
        process: Process,
        number: int,
        rooms: list[str],
        url: Callable[[], str],
        token: Callable[[str], str],
        serving: Callable[[str], Process],
        note: Note,
        pause: float,
    ) -> None:
        self.pause = pause
        self.process, self.number, self.note = process, number, note
        self.name, self.role = process.name, ROLES[number % len(ROLES)]
        self.dice = process.dice
        first = number % len(rooms)
        self.rooms = [rooms[first], *rooms[first + 1 : first + 2]]
        self.url, self.token, self.serving = url, token, serving
        self.oracle = Oracle()
        self.texts: dict[str, Counter[str]] = {room: Counter() for room in rooms}
        self.told: Counter[str] = Counter()  # by room: times that it was told of a loss
        self.told_at: dict[str, float] = {}  # by room: when it was told last
        # Room, position before, and the epoch that was said to go on from there, ...
        self.went_on: list[tuple[str, dict[str, Any], str]] = []
        self.refused: list[tuple[str, dict[str, Any], str]] = []  # or not to go on
        self.seen: dict[str, dict[str, str]] = {}  # by room: people, by connection
        self.began: dict[str, float] = {}  # when it first tried to publish a text
        self.entered: dict[str, float] = {}  # by room: when it was first joined
        self.acknowledged: dict[str, str] = {}  # text, to its room
        self.answered: dict[str, Process] = {}  # text, to the server that acknowledged
        self.stable = self.role not in ("wanderer", "guest")
        self.presence = number % 2 == 0
        self.speaking = True
        self.client = self.make()
        self.listening: asyncio.Task[None] | None = None
        self.failed = ""

    def make(self) -> Client:
        kind = Older if self.number % 4 > 1 else Client
        return kind(
            self.url,
            lambda: self.token(self.name),
            backoff=Backoff(first=0.1, cap=1.0),
            open_timeout=None,
            request_timeout=5.0,
            proxy=None,
            compression="deflate" if self.number % 3 == 0 else None,
            ping_interval=3.0,
            ping_timeout=3.0,
        )

    async def live(self) -> None:
        """Connect, join, and do what the role says until :attr:`speaking` ends."""
        try:
            await self.open({})
            match self.role:
                case "speaker":
                    await self.speak()
                case "wanderer":
                    await self.wander()
                case "guest":
                    await self.visit()
        except Rejected as exc:
            self.failed = f"{self.name} was rejected: {exc}"

    async def open(self, cursors: dict[str, Any]) -> None:
        await self.client.__aenter__()
        self.listening = asyncio.create_task(self.listen(self.client))
        for room in self.rooms:
            await self.enter(room, cursors.get(room))

    async def enter(self, room: str, after: Any = None) -> None:
        self.note(self.name, "sent", f'{{"type":"join","room":"{room}"}}')
        while True:
            try:
                await self.client.join(room, after, self.presence)
                return
            except (ConnectionError, TimeoutError):
                return  # the client enters it as soon as it can
            except ServerError:
                await asyncio.sleep(PAUSE)

    async def close(self) -> None:
        """Close the connection, and wait until all that came was seen."""
        await self.client.__aexit__(None, None, None)
        if self.listening is not None:
            with contextlib.suppress(Rejected):
                await self.listening

    async def listen(self, client: Client) -> None:
        async for message in client:
            self.hear(message)
            if self.role == "slow":
                await asyncio.sleep(0.05)

    def hear(self, message: dict[str, Any]) -> None:
        self.note(self.name, "received", msgspec.json.encode(message).decode())
        room = message.get("room", "")
        place = self.oracle.cursor(room)
        self.oracle.saw(message)
        match message["type"]:
            case "message":
                self.texts[room][message["payload"].rstrip(".")] += 1
            case "gap":
                self.hear_of_a_loss(room)
            case "joined":
                now = self.process.loop.time()
                self.entered.setdefault(room, now)
                if not message["recovered"]:
                    self.hear_of_a_loss(room)
                if place is not None:
                    said = self.went_on if message["recovered"] else self.refused
                    said.append((room, place, message["epoch"]))
            case "present":
                people = message.get("clients", ())
                self.seen[room] = {each["id"]: each["user"] for each in people}
            case "presence":
                seen = self.seen.setdefault(room, {})
                for each in message.get("left", ()):
                    seen.pop(each["id"], None)
                for each in message.get("joined", ()):
                    seen[each["id"]] = each["user"]

    def hear_of_a_loss(self, room: str) -> None:
        self.told[room] += 1
        self.told_at[room] = self.process.loop.time()

    # Roles

    async def speak(self) -> None:
        count = 0
        while self.speaking:
            room = self.dice.choice(self.rooms)
            for _ in range(self.dice.choice((1, 1, 1, 4))):
                count += 1
                await self.say(room, f"{self.name}/{count}")
            pause = self.dice.expovariate(1 / self.pause)
            await asyncio.sleep(min(pause, 3 * self.pause))

    async def say(self, room: str, text: str) -> None:
        """Publish a text until there is an answer."""
        big = "." * BIG if self.dice.random() < 0.05 else ""
        self.note(self.name, "sent", f'{{"type":"publish","payload":"{text}"}}')
        self.began[text] = self.process.loop.time()
        while True:
            try:
                await self.client.publish(room, text + big, key=text)
            except (ConnectionError, TimeoutError):
                await asyncio.sleep(PAUSE)
            except ServerError as exc:
                if exc.code not in ("broker_down", "rate_limited"):
                    raise
                await asyncio.sleep(PAUSE)
            else:
                self.acknowledged[text] = room
                self.answered[text] = self.serving(self.client.hello["replica"])
                return

    async def wander(self) -> None:
        """Leave a room and come back, again and again."""
        room = self.rooms[0]
        while self.speaking:
            await asyncio.sleep(self.dice.choice((0.0, 0.05, 0.5, 2.0)))
            with contextlib.suppress(ConnectionError, TimeoutError, ServerError):
                await self.client.leave(room)
            self.seen.pop(room, None)
            await asyncio.sleep(self.dice.choice((0.0, 0.01, 1.0, 1.6)))
            await self.enter(room)

    async def visit(self) -> None:
        """Close the connection, and open another one with the cursors."""
        while self.speaking:
            await asyncio.sleep(self.dice.choice((0.2, 1.0, 3.0)))
            await self.close()
            cursors = {room: self.oracle.cursor(room) for room in self.rooms}
            self.seen.clear()
            await asyncio.sleep(self.dice.choice((0.0, 0.1, 1.0)))
            self.client = self.make()
            await self.open(cursors)
