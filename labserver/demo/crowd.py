"""Clients that publish all the time, each with an oracle of its own."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from labserver.client import Backoff, Client, ServerError
from labserver.contract.tokens import issue
from labserver.judge.oracle import Oracle, lost

INTERVAL = 1.5  # seconds between two messages of one client, on average
ANSWER_TIMEOUT = 5.0
SETTLED = 15.0  # seconds at the end until all clients must have caught up
ROOM = "lobby"


@dataclass(frozen=True)
class Tally:
    """Numbers of messages and connections so far, over all clients."""

    clients: int = 0
    connected: int = 0
    published: int = 0  # and acknowledged
    delivered: int = 0
    returned: int = 0  # connections after the first
    told: int = 0  # messages announced as lost in a gap
    lost: int = 0  # neither delivered nor announced
    duplicated: int = 0
    reordered: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing was lost, duplicated or reordered; gaps are no faults."""
        return not (self.lost + self.duplicated + self.reordered)


@dataclass
class Member:
    """One client in one room, with its oracle."""

    name: str
    room: str
    client: Client
    oracle: Oracle = field(default_factory=Oracle)
    said: int = 0

    @property
    def seq(self) -> int:
        """The newest seq that was delivered, or announced in a gap."""
        cursor = self.oracle.cursor(self.room)
        return int(cursor["seq"]) if cursor else 0


class Crowd:
    """Clients in a room, which all publish and listen.

    Args:
        url: Function that returns the URL to connect to; called for every attempt.
        secret: Secret with which tokens are signed.

    """

    def __init__(self, url: Callable[[], str], secret: str) -> None:
        self.url = url
        self.secret = secret
        self.members: list[Member] = []
        self.acknowledged: dict[str, set[int]] = {}
        self.latencies: list[float] = []  # seconds; cleared by the reader
        self._speaking = True
        self._talk: list[asyncio.Task[None]] = []
        self._listening: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        tasks = [*self._talk, *self._listening]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stack.aclose()

    async def enter(
        self, name: str, room: str = ROOM, url: Callable[[], str] | None = None
    ) -> Member:
        """Connect another client, join it to a room, and audit it from now on."""
        client = Client(
            url or self.url,
            lambda: issue(self.secret, name),
            backoff=Backoff(first=0.1, cap=1.0),
            compression=None,  # saves CPU time of 60 clients in one process
        )
        await self._stack.enter_async_context(client)
        member = Member(name, room, client)
        self._listening.append(asyncio.create_task(self._listen(member)))
        await client.join(room)
        self.members.append(member)
        return member

    def talk(self) -> None:
        """Make all members publish until :meth:`finish`."""
        self._talk += [
            asyncio.create_task(self._chat(each)) for each in list(self.members)
        ]

    async def finish(self) -> Tally:
        """Stop publishing, let all clients catch up, and audit to the last message."""
        self._speaking = False
        async with asyncio.timeout(SETTLED + ANSWER_TIMEOUT):
            await asyncio.gather(*self._talk)
        deadline = time.monotonic() + SETTLED
        for member in self.members:
            await self.catch_up(member, deadline - time.monotonic())
        return self.tally(final=True)

    async def catch_up(self, member: Member, within: float) -> None:
        """Wait until a client has all messages or gaps, at most ``within`` seconds."""
        newest = max(self.acknowledged.get(member.room, {0}))
        deadline = time.monotonic() + within
        while member.seq < newest and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    def tally(self, final: bool = False) -> Tally:
        """Return the tally; only a ``final`` one counts messages missing at the end."""
        verdicts = [each.oracle.verdict for each in self.members]
        return Tally(
            clients=len(self.members),
            connected=sum(each.client.connected for each in self.members),
            published=sum(map(len, self.acknowledged.values())),
            delivered=sum(each.received for each in verdicts),
            returned=sum(max(0, each.client.connects - 1) for each in self.members),
            told=sum(len(each.gaps) for each in verdicts),
            lost=sum(self._lost(each, final) for each in self.members),
            duplicated=sum(len(each.duplicated) for each in verdicts),
            reordered=sum(len(each.reordered) for each in verdicts),
        )

    def _lost(self, member: Member, final: bool) -> int:
        missing = {seq for _, _, seq in member.oracle.verdict.unsignalled}
        if final:
            known = self.acknowledged.get(member.room, set())
            missing |= set(lost(member.oracle, member.room, known))
        return len(missing)

    async def _listen(self, member: Member) -> None:
        async for message in member.client:
            member.oracle.saw(message)
            match message:  # other programs may publish other payloads
                case {"type": "message", "payload": {"at": float(at)}}:
                    if member.room == ROOM:
                        self.latencies.append(time.monotonic() - at)

    async def _chat(self, member: Member) -> None:
        while self._speaking:
            await asyncio.sleep(random.uniform(0.5, 1.5) * INTERVAL)
            await self.say(member)

    async def say(self, member: Member, **more: Any) -> None:
        """Publish until there is an ack; the key prevents a second delivery."""
        member.said += 1
        key = f"{member.name}/{member.said}"
        payload = {"at": time.monotonic(), **more}
        while True:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    ack = await member.client.publish(member.room, payload, key)
            except (ConnectionError, TimeoutError):
                await asyncio.sleep(0.05)
            except ServerError as exc:
                if exc.code not in ("broker_down", "rate_limited"):
                    raise
                await asyncio.sleep(0.2)
            else:
                self.acknowledged.setdefault(member.room, set()).add(ack["seq"])
                return
