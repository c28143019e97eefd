"""One write per member and tick, the same bytes for all, and two clean indexes."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from labserver.contract import wire
from labserver.contract.closing import INTERNAL, Close
from labserver.contract.messages import Event, Joined, event
from labserver.contract.wire import Chunk, Variant
from labserver.server.hub import COMPRESSED_LIMIT, Hub
from labserver.server.member import SHUT
from labserver.server.metrics import Metrics

DEFLATE = Variant(wire.JSON, 12)


class FakeOutbox:
    def __init__(self) -> None:
        self.chunks: list[Chunk] = []

    def deliver(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)

    def seqs(self) -> list[int]:
        return [seq for chunk in self.chunks for seq in chunk.lasts]


class FakeMember:
    """Stands in for a connection, with what the hub uses of it."""

    def __init__(self, variant: Variant = wire.PLAIN) -> None:
        self.variant = variant
        self.rooms: set[str] = set()
        self.outbox = FakeOutbox()
        self.replies: list[Struct] = []
        self.name = "fake"
        self.cuts: list[Close] = []

    def cut(self, close: Close) -> None:
        self.cuts.append(close)

    def fail(self, _: object) -> None:
        raise RuntimeError("Cannot call write() after write_eof()")

    def reply(self, message: Struct) -> None:
        self.replies.append(message)


def new_hub() -> tuple[Hub, list[str]]:
    emptied: list[str] = []
    return Hub(Metrics(), emptied.append), emptied


def join(hub: Hub, member: FakeMember, room: str = "a", seq: int = 0) -> None:
    with hub.joining(member, room) as entry:
        hub.add(entry, Joined(room, "e", seq, recovered=False), ())


def message(seq: int) -> Event:
    return event("a", seq, b'"from":"ann","payload":"%b"}' % (b"x" * 200))


async def test_member_that_cannot_be_written_to_costs_nobody_else() -> None:
    hub, _ = new_hub()
    members = [FakeMember() for _ in range(8)]
    for member in members:
        join(hub, member)
    broken = members.pop()
    broken.outbox.deliver = broken.reply = broken.fail
    hub.deliver("a", message(1))
    await asyncio.sleep(0)
    assert broken.outbox is SHUT
    hub.renumber("a", "f", 0)
    await asyncio.sleep(0)
    assert broken.cuts == [INTERNAL, INTERNAL]
    for member in members:
        assert member.outbox.seqs() == [1]
        assert member.replies[-1] == Joined("a", "f", 0, recovered=False)


async def test_messages_of_one_tick_are_one_write_shared_by_all() -> None:
    hub, _ = new_hub()
    members = [FakeMember() for _ in range(3)] + [FakeMember(DEFLATE)]
    for member in members:
        join(hub, member)
    for seq in range(1, 6):
        hub.deliver("a", message(seq))
    assert not members[0].outbox.chunks
    await asyncio.sleep(0)
    assert [len(member.outbox.chunks) for member in members] == [1, 1, 1, 1]
    shared = members[0].outbox.chunks[0]
    assert len(shared) == len(list(shared.singles())) == 5
    assert members[1].outbox.chunks[0] is shared
    assert members[3].outbox.chunks[0] is not shared
    assert len(members[3].outbox.chunks[0].data) < len(shared.data) / 2
    assert hub.metrics.flushes == 1
    assert hub.metrics.deliveries == 20


async def test_newcomer_does_not_get_what_was_pending() -> None:
    hub, _ = new_hub()
    old, new = FakeMember(), FakeMember()
    join(hub, old)
    hub.deliver("a", message(1))
    join(hub, new, seq=1)
    hub.deliver("a", message(2))
    await asyncio.sleep(0)
    assert old.outbox.seqs() == [1, 2]
    assert new.outbox.seqs() == [2]


async def test_replay_and_what_came_meanwhile_meet_without_hole_or_double() -> None:
    hub, _ = new_hub()
    old, new = FakeMember(), FakeMember()
    join(hub, old)
    with hub.joining(new, "a") as entry:
        for seq in (4, 5, 6):
            hub.deliver("a", message(seq))
            await asyncio.sleep(0)
        missed = [message(seq) for seq in (2, 3, 4, 5)]
        hub.add(entry, Joined("a", "e", 5, recovered=True), missed)
    hub.deliver("a", message(7))
    await asyncio.sleep(0)
    assert new.outbox.seqs() == [2, 3, 4, 5, 6, 7]
    assert old.outbox.seqs() == [4, 5, 6, 7]


async def test_member_that_left_gets_what_was_delivered_before() -> None:
    hub, _ = new_hub()
    member, other = FakeMember(), FakeMember()
    join(hub, member)
    join(hub, other)
    hub.deliver("a", message(1))
    hub.remove(member, "a")
    hub.deliver("a", message(2))
    await asyncio.sleep(0)
    assert member.outbox.seqs() == [1]
    assert other.outbox.seqs() == [1, 2]


async def test_empty_room_is_forgotten_on_both_sides() -> None:
    hub, emptied = new_hub()
    member = FakeMember()
    join(hub, member)
    join(hub, member, "b")
    assert member.rooms == {"a", "b"}
    hub.remove(member, "a")
    assert (member.rooms, set(hub.rooms), emptied) == ({"b"}, {"b"}, ["a"])
    hub.remove(member, "a")  # a second time does nothing
    hub.remove(member, "never")
    assert emptied == ["a"]


async def test_join_that_fails_leaves_nothing_behind() -> None:
    hub, emptied = new_hub()
    with hub.joining(FakeMember(), "a"):
        assert set(hub.rooms) == {"a"}
    assert not hub.rooms
    assert emptied == ["a"]
    hub.deliver("a", message(1))  # the room has no member


async def test_new_epoch_is_told_to_members_and_to_those_who_are_joining() -> None:
    hub, _ = new_hub()
    old, new = FakeMember(), FakeMember()
    join(hub, old, seq=9)
    with hub.joining(new, "a") as entry:
        hub.deliver("a", message(10))
        hub.renumber("a", "f", 0)
        hub.deliver("a", message(1))
        hub.add(entry, Joined("a", "e", 9, recovered=False), ())
    await asyncio.sleep(0)
    assert old.replies[-1] == Joined("a", "f", 0, recovered=False)
    assert new.replies == [Joined("a", "f", 0, recovered=False)]
    assert new.outbox.seqs() == [1]


def test_long_replay_is_not_compressed() -> None:
    """To compress a thousand messages would hold the loop for 50 ms."""
    for count, compressed in ((COMPRESSED_LIMIT, True), (COMPRESSED_LIMIT + 1, False)):
        hub, _ = new_hub()
        member = FakeMember(DEFLATE)
        missed = [
            event("a", seq, b'"payload":"%b"}' % (b"x" * 500))
            for seq in range(1, count + 1)
        ]
        with hub.joining(member, "a") as entry:
            hub.add(entry, Joined("a", "e", count, recovered=True), missed)
        (chunk,) = member.outbox.chunks
        assert bool(chunk.data[0] & wire.COMPRESSED) is compressed
        assert member.outbox.seqs() == list(range(1, count + 1))
