"""Presence: members are told who is in their room, in batches and bounded.

Without this, presence costs the square of a crowd: when a thousand people come back,
each of them is told of each.

How: the members of a room are told of all changes at most once a second, with one frame
for all. Beyond ``NAMED_LIMIT`` people they are only told the number. People who come
and leave within that second are not mentioned. A member that needs the whole list, or
reads too slowly for the changes, gets a ``present`` once it reads. Until then the
server only keeps the fact that the member is owed one.

Each replica tells the broker its own people of a room. The broker forgets them unless
the replica repeats them, so the people of a killed replica leave, too. While the broker
is away, nobody is told anything; afterwards the lists become correct by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from msgspec import Struct

from labserver.contract import messages, wire
from labserver.contract.messages import Person, Presence, Present
from labserver.contract.wire import Variant
from labserver.errors import BrokerDown
from labserver.server.member import Member
from labserver.server.tasks import Failures, keep

NAMED_LIMIT = 100  # people in a room; if there are more, they are not named
INTERVAL = 1.0  # seconds between two events of a room
REFRESH = 2.0  # seconds after which a replica repeats its people of a room
REFRESHES = 1000  # a second, at most; with very many rooms each is refreshed less often
TTL = 3.0  # refreshes after which the broker forgets a replica's people
# The broker may have forgotten replicas that live. Then each replica has so many
# refreshes to repeat its people, before anybody is told that they left.
DOUBT = 1.5
FAREWELL = 1.0  # seconds that a stopping server has to say that its people left
ASKING = 64  # rooms that ask the broker at a time, so that publishes need not wait


@dataclass(frozen=True, slots=True)
class Roster:
    """The people in a room.

    Args:
        count: Number of connections.
        users: The user of each connection, by its id; None if they are too many.
        version: Number of this state of the room; 0 from a broker without replicas.
        forgotten: Whether the broker had lost the members that this replica reported.

    """

    count: int
    users: Mapping[str, str] | None
    version: int = 0
    forgotten: bool = False


NOBODY = Roster(0, {})

# Args: room, its local members, seconds to live, last roster known (None: none was).
# Returns its members on all replicas. Raises BrokerDown.
Here = Callable[[str, Roster, float, Roster | None], Awaitable[Roster]]


@dataclass(eq=False, slots=True)
class Audience:
    """The members of one room in this process that see others and are seen."""

    members: set[Member] = field(default_factory=set)
    owed: set[Member] = field(default_factory=set)  # members owed a ``present``
    told: Roster = NOBODY  # what all other members know
    known: Roster | None = None  # the broker's last answer; None if it knows of nobody
    trusted: float = 0.0  # loop time from which the broker's answers count again
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def roster(self) -> Roster:
        """Return the people in this process."""
        count = len(self.members)
        if count > NAMED_LIMIT:
            return Roster(count, None)
        users = {each.name: each.identity.user for each in self.members}
        return Roster(count, users)


class Attendance:
    """The rooms of a process whose members asked for presence.

    Args:
        here: Reports local people to the broker, and returns those of all replicas.
        failures: Counts failures of the rooms' tasks.

    """

    def __init__(self, here: Here, failures: Failures) -> None:
        self.here = here
        self.failures = failures
        self.audiences: dict[str, Audience] = {}
        self.asking = asyncio.Semaphore(ASKING)
        self.telling = asyncio.Lock()

    def enter(self, connection: Member, room: str) -> None:
        """Show a member to the others in a room, and the others to it."""
        audience = self.audiences.get(room)
        if audience is None:
            audience = self.audiences[room] = Audience()
            follow = partial(self._follow, room, audience)
            audience.task = keep("presence", follow, self.failures)
        audience.members.add(connection)
        audience.owed.add(connection)
        audience.stirred.set()

    def leave(self, connection: Member, room: str) -> None:
        """Forget a member; do nothing if it was not seen in the room."""
        audience = self.audiences.get(room)
        if audience is not None and connection in audience.members:
            audience.members.discard(connection)
            audience.owed.discard(connection)
            audience.stirred.set()

    def stir(self, room: str) -> None:
        """Note that people came or left on another replica."""
        audience = self.audiences.get(room)
        if audience is not None:
            audience.stirred.set()

    @property
    def refresh(self) -> float:
        """Seconds until a room without changes is reported again."""
        return max(REFRESH, len(self.audiences) / REFRESHES)

    async def stop(self, deadline: float) -> None:
        """Report to the broker that everybody left, unless it is away.

        Args:
            deadline: Time on the clock ``time.monotonic`` by which this returns.

        """
        tasks = [each.task for each in self.audiences.values() if each.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        leaving = [
            self.here(room, NOBODY, 0.0, None)
            for room, audience in self.audiences.items()
            if audience.known is not None
        ]
        with contextlib.suppress(TimeoutError):
            within = min(FAREWELL, max(0.0, deadline - time.monotonic()))
            async with asyncio.timeout(within):
                await asyncio.gather(*leaving, return_exceptions=True)
        self.audiences.clear()

    async def _follow(self, room: str, audience: Audience) -> None:
        """Look after a room: after changes and at refreshes, at most once an interval.

        Returns when the last member has left, and the broker knows it.
        """
        while True:
            audience.stirred.clear()
            try:
                mine = await self._look(room, audience)
            except BrokerDown:  # it may forget other replicas before it is back
                mine = audience.roster()
                self._doubt(audience)
            if not mine.count and not audience.members:
                del self.audiences[room]
                return
            await asyncio.sleep(INTERVAL)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.refresh - INTERVAL):
                    await audience.stirred.wait()

    async def _look(self, room: str, audience: Audience) -> Roster:
        """Exchange rosters with the broker, and tell the members what is new.

        Returns the roster of this process that the broker has now.
        """
        async with self.asking:
            mine, asked = audience.roster(), audience.owed.copy()
            ttl = TTL * self.refresh
            now = await self.here(room, mine, ttl, audience.known)
        audience.known = now if mine.count else None
        if now.forgotten:  # the broker may have forgotten others, too
            self._doubt(audience)
        async with self.telling:  # at most one room a tick
            if asyncio.get_running_loop().time() >= audience.trusted:
                self._tell(room, audience, now, asked)
            await asyncio.sleep(0)
        return mine

    def _doubt(self, audience: Audience) -> None:
        now = asyncio.get_running_loop().time()
        audience.trusted = now + DOUBT * self.refresh

    def _tell(
        self, room: str, audience: Audience, now: Roster, asked: set[Member]
    ) -> None:
        """Send the whole list to members that need it, and the changes to the others.

        Args:
            room: Name of the room.
            audience: Its members in this process.
            now: The people in the room, on all replicas.
            asked: The members that were owed a list when ``now`` was requested.

        """
        told, audience.told = audience.told, now
        late = audience.owed - asked  # came meanwhile: ``now`` may not know them
        named_again = told.users is None and now.users is not None
        behind = (audience.members if named_again else audience.owed) - late
        news = change(room, told, now)
        slow: set[Member] = set()
        if news is not None:
            slow |= send(news, audience.members - audience.owed - behind)
        if behind:
            slow |= send(picture(room, now), behind)
        audience.owed = late | slow


def picture(room: str, now: Roster) -> Present:
    """Return the message with everybody who is in a room."""
    if now.users is None:
        return Present(room, now.count)
    return Present(room, now.count, people(now.users, now.users))


def change(room: str, told: Roster, now: Roster) -> Presence | None:
    """Return the changes, with names if both rosters have them; None for none."""
    if told.users is None or now.users is None:
        same = told.count == now.count and told.users is now.users
        return None if same else Presence(room, now.count)
    joined = [each for each in now.users if each not in told.users]
    left = [each for each in told.users if each not in now.users]
    if not joined and not left:
        return None
    return Presence(
        room, now.count, people(joined, now.users), people(left, told.users)
    )


def people(ids: Iterable[str], users: Mapping[str, str]) -> list[Person]:
    return [Person(each, users[each]) for each in ids]


def send(message: Struct, members: Iterable[Member]) -> set[Member]:
    """Send to the members that read; return the slow ones.

    All members of a variant get the same frame. Nothing is kept for a slow reader: the
    message would be out of date by the time it is read.
    """
    text = messages.encode(message)
    frames: dict[Variant, bytes] = {}
    slow = set()
    for member in members:
        variant = member.variant
        if member.paused:
            slow.add(member)
            continue
        if variant not in frames:
            frames[variant] = wire.frame(variant, text)
        member.outbox.control(frames[variant])
    return slow
