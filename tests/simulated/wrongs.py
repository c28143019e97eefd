"""Faults that the server once had, or might have had: put back one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from labserver.contract import wire
from labserver.redis import link, messages, publishing
from labserver.redis.commands import Commands
from labserver.redis.feed import Feed
from labserver.redis.link import Link
from labserver.redis.seen import Seen
from labserver.server import entry, presence
from labserver.server.ending import EndableConnection
from labserver.server.hub import Hub
from labserver.server.server import LabServer
from labserver.stages.broker import RedisBroker
from labserver.stages.heartbeat import WheelHeartbeat

Wrong = Callable[[], Any]  # returns a context manager
WRONGS: dict[str, tuple[str, Wrong]] = {}  # by name: what is wrong, and how


def wrong(what: str) -> Callable[[Wrong], Wrong]:
    """Add a context manager to the table."""

    def add(put_back: Wrong) -> Wrong:
        name = put_back.__name__.replace("_", "-")
        WRONGS[name] = (what, contextmanager(put_back))
        return put_back

    return add


@contextmanager
def patched(*what: tuple[object, str, Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, name, value in what:
            stack.enter_context(patch.object(owner, name, value))
        yield


def _note_nothing(self: Seen, room: str, epoch: str, seq: int) -> None:
    pass


@wrong("A transport that has ended raises in the middle of a room's round.")
def raises_in_a_round() -> Iterator[None]:
    def flush(self: Hub, room: Any) -> None:
        events, room.pending = room.pending, []
        for variant, members in room.members.items() if events else ():
            shared = wire.chunk(variant, room.name, events, room.epoch)
            for member in members:
                member.outbox.deliver(shared)

    def leave(self: EndableConnection, within: float = 1.0) -> None:
        if not self.gone:
            self.gone = True
            self.set_deadline(within, self.run_out)
            self.loop.call_soon(self.left)

    with patched((Hub, "flush", flush), (EndableConnection, "leave", leave)):
        yield


@wrong("A link that broke during a first join waits for answers that are gone.")
def waits_for_answers_of_a_broken_link() -> Iterator[None]:
    follow = Link._follow

    async def _follow(self: Link) -> None:
        class Kept(type(self.asked)):  # type: ignore[misc]
            def clear(self) -> None:
                pass

        self.asked = Kept(self.asked)
        await follow(self)

    with patched((Link, "_follow", _follow)):
        yield


@wrong("A link that is connected and hears nothing counts as a link.")
def deaf_link() -> Iterator[None]:
    with patched((link, "SILENCE", 1e6)):
        yield


@wrong("A peer that resets before its hello keeps its place.")
def place_of_an_early_reset() -> Iterator[None]:
    def lost(self: LabServer, connection: Any) -> None:
        self.sockets.discard(connection)
        if connection in self.connections:
            self.parts.admission.places.leave(connection.place)
            self.connections.discard(connection)

    with patched((LabServer, "lost", lost)):
        yield


@wrong("Answers to scripts that Redis did not know are handed out in another order.")
def answers_after_noscript() -> Iterator[None]:
    execute = Commands._execute

    async def _execute(self: Commands, batch: Any) -> list[Any]:
        unknown = getattr(self, "unknown", False)
        answers = await execute(self, batch)
        refused = any("NoScript" in type(each).__name__ for each in answers)
        self.unknown = refused
        return answers[::-1] if unknown and not refused else answers

    with patched((Commands, "_execute", _execute)):
        yield


@wrong("A Redis that is promoted again goes on with the numbering that it had.")
def promoted_again() -> Iterator[None]:
    identify = Commands._identify

    async def _identify(self: Commands) -> None:
        await identify(self)
        self.server = self.server.partition(b"/")[0]

    # Now a server that has seen the later numbers finds it, too.
    with patched((Commands, "_identify", _identify), (Seen, "note", _note_nothing)):
        yield


@wrong("A Redis that was restored goes on with the numbering that it has.")
def one_numbering_for_ever() -> Iterator[None]:
    async def _identify(self: Commands) -> None:
        self.identified = 1e9
        self.server = b"the only one"

    with patched((Commands, "_identify", _identify)):
        yield


@wrong("A join with a cursor of the newest epoch, at a replica that learns it then.")
def replica_learns_late() -> Iterator[None]:
    entered = entry.Entry.entered

    def forgetful(self: entry.Entry, answer: Any, missed: Any) -> Any:
        again, now = self.again, self.renumbered
        self.again = again or (now is not None and not now.recovered)
        steps = entered(self, answer, missed)
        self.again = again
        return steps

    with patched((entry.Entry, "entered", forgetful)):
        yield


@wrong("A hole between two messages of the link is not looked for.")
def holes_unseen() -> Iterator[None]:
    async def catch_up(self: RedisBroker, room: str, until: int | None = None) -> None:
        feed = self.feeds.get(room)
        if feed is not None and until is not None and feed.epoch:
            feed._move(feed.epoch, until)

    with patched((RedisBroker, "catch_up", catch_up)):
        yield


@wrong("Rooms that are subscribed again are not caught up with.")
def no_catching_up() -> Iterator[None]:
    async def _confirmed(self: Link, command: str, room: str) -> bool:
        if not self.asked or self.asked[0][:2] != (command, room):
            return False
        *_, confirmed = self.asked.popleft()
        if confirmed is not None and not confirmed.done():
            confirmed.set_result(None)
        return True

    with patched((Link, "_confirmed", _confirmed)):
        yield


@wrong("The confirmation of an older command counts for a newer one.")
def confirmed_out_of_order() -> Iterator[None]:
    async def _confirmed(self: Link, command: str, room: str) -> bool:
        confirmed = self.rooms.get(room)
        if confirmed is not None and not confirmed.done():
            confirmed.set_result(None)
        elif confirmed is not None and command == self.entry:
            await self.again([room])
        return True

    with patched((Link, "_confirmed", _confirmed)):
        yield


@wrong("A publish that is repeated is another message: keys are ignored.")
def keys_ignored() -> Iterator[None]:
    said = messages.said

    def keyless(room: str, history: Any, outgoing: Any, *more: Any) -> Any:
        for each in outgoing:
            each.key = None
        return said(room, history, outgoing, *more)

    with patched((publishing, "said", keyless)):
        yield


@wrong("What is gone is passed over without a word.")
def silent_gaps() -> Iterator[None]:
    def lose(self: Feed, last: int) -> None:
        if last > self.seq:
            self._move(self.epoch, last)

    with patched((Feed, "lose", lose)):
        yield


@wrong("A join is answered before the room's feed has reached its position.")
def answered_too_early() -> Iterator[None]:
    async def _settle(self: RedisBroker, room: str, position: Any) -> bool:
        feed = self.feeds.get(room)
        if feed is not None:
            feed.begin(position.epoch, position.seq)
        return True

    with patched((RedisBroker, "_settle", _settle)):
        yield


@wrong("A new primary is not told of messages that it lacks.")
def nothing_seen() -> Iterator[None]:
    with patched((Seen, "note", _note_nothing)):
        yield


@wrong("WAIT goes over a connection that wrote nothing.")
def waits_elsewhere() -> Iterator[None]:
    execute = Commands._execute

    async def _execute(self: Commands, batch: Any) -> list[Any]:
        confirm, self.confirm = self.confirm, 0
        try:
            found = await execute(self, batch)
        finally:
            self.confirm = confirm
        if not confirm:
            return found
        other: Any = self.connections.make_connection()
        await other.connect()
        try:
            await other.send_command("WAIT", confirm, 1000)
            confirmed = await other.read_response()
        finally:
            await other.disconnect(nowait=True)
        return [self._confirmed(each, confirmed) for each in found]

    with patched((Commands, "_execute", _execute)):
        yield


@wrong("How many replicas confirmed is not looked at.")
def any_count_confirms() -> Iterator[None]:
    with patched((Commands, "_confirmed", lambda self, answer, confirmed: answer)):
        yield


@wrong("A peer whose network vanished stays for ever.")
def no_heartbeat() -> Iterator[None]:
    with patched((WheelHeartbeat, "judge", lambda self, connection: None)):
        yield


@wrong("The people of a killed replica stay in the room.")
def people_stay() -> Iterator[None]:
    with patched((presence, "TTL", 1e5)):
        yield
