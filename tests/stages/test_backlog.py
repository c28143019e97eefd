"""The backlog: messages keep their order, and a gap stands where one was lost."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labserver.contract.messages import Event, event, gap
from labserver.contract.wire import PLAIN, Chunk, chunk, frame
from labserver.stages.backlog import LOSS_SIZE, Backlog, Loss

POLICIES = ["drop-newest", "drop-oldest", "conflate"]
ROOMS = ["a", "b", "c"]


def frames(data: bytes) -> list[dict[str, Any]]:
    """Return the messages of plain frames."""
    said = []
    while data:
        length, start = data[1], 2
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
        said.append(json.loads(data[start : start + length]))
        data = data[start + length :]
    return said


def answer(number: int, length: int = 0) -> bytes:
    text = json.dumps({"type": "pong", "ref": number, "pad": "." * length})
    return frame(PLAIN, text.encode())


@dataclass
class Reader:
    """A backlog, the messages that went in, and those that its reader got."""

    policy: str = "drop-newest"
    limit: float = float("inf")
    backlog: Backlog = field(default_factory=Backlog)
    seqs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ROOMS, 0))
    went_in: list[tuple[str, int]] = field(default_factory=list)
    came_out: list[tuple[str, int]] = field(default_factory=list)
    told: set[tuple[str, int]] = field(default_factory=set)

    def chunk(
        self, room: str, count: int = 1, length: int = 10, span: int = 1
    ) -> Chunk:
        """Return the next messages of a room; with ``span`` > 1 a gap follows them."""
        events: list[Event] = []
        for _ in range(count):
            self.seqs[room] += 1
            tail = b'"from":"ann","payload":"%b"}' % (b"." * length)
            events.append(event(room, self.seqs[room], tail))
        if span > 1:
            first = self.seqs[room] + 1
            self.seqs[room] += span
            events.append(gap(room, first, self.seqs[room], "broker"))
        for each in events:
            self.went_in += [(room, seq) for seq in range(each.first, each.last + 1)]
        return chunk(PLAIN, room, events)

    def deliver(self, chunk: Chunk) -> None:
        """Give a chunk to the backlog as the outbox does."""
        if self.backlog.size + len(chunk.data) <= self.limit:
            self.backlog.hold(chunk)
        else:
            self.backlog.squeeze(self.policy, chunk, self.limit)

    def reply(self, number: int, length: int = 0) -> None:
        self.went_in.append(("answer", number))
        self.backlog.hold(answer(number, length))

    def read(self, most: int = 1 << 30) -> None:
        for said in frames(self.backlog.take(PLAIN, most)):
            match said["type"]:
                case "message":
                    self.came_out.append((said["room"], said["seq"]))
                case "pong":
                    self.came_out.append(("answer", said["ref"]))
                case "gap":
                    places = [
                        (said["room"], seq)
                        for seq in range(said["from"], said["to"] + 1)
                    ]
                    self.came_out += places
                    self.told.update(places)

    def check(self) -> None:
        """Check the sizes of the backlog against its entries."""
        entries = self.backlog.entries
        held = [len(e.data) for e in entries if isinstance(e, Chunk)]
        answers = [len(e) for e in entries if isinstance(e, bytes)]
        losses = sum(isinstance(e, Loss) for e in entries)
        assert self.backlog.kept == sum(answers) + LOSS_SIZE * losses
        assert self.backlog.size == sum(held) + sum(answers) + LOSS_SIZE * losses
        assert sum(held) <= self.limit
        # Losses of a room that follow each other are joined to one.
        assert losses <= len(ROOMS) * (len(held) + len(answers) + 1)

    def finish(self) -> None:
        self.read()
        assert not self.backlog.entries
        assert (self.backlog.size, self.backlog.kept) == (0, 0)
        answers = [place for place in self.went_in if place[0] == "answer"]
        assert [place for place in self.came_out if place[0] == "answer"] == answers
        for room in ROOMS:
            # Each seq once, as itself or in a gap, in order, also among the answers.
            kinds = (room, "answer")
            assert [place for place in self.came_out if place[0] in kinds] == [
                place for place in self.went_in if place[0] in kinds
            ]


actions = st.lists(
    st.tuples(
        st.sampled_from(["deliver"] * 6 + ["reply", "read"]),
        st.sampled_from(ROOMS),
        st.integers(1, 4),
        st.sampled_from([0, 10, 80, 300]),
        st.sampled_from([1, 1, 1, 5]),
    ),
    max_size=40,
)


@pytest.mark.parametrize("policy", POLICIES)
@settings(
    max_examples=150,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(actions=actions, limit=st.sampled_from([0, 100, 400, 1500, 5000]))
def test_every_seq_arrives_or_is_told_in_its_place(
    policy: str, actions: list[Any], limit: int
) -> None:
    reader = Reader(policy, limit)
    for number, (action, room, count, length, span) in enumerate(actions):
        match action:
            case "deliver":
                reader.deliver(reader.chunk(room, count, length, span))
            case "reply":
                reader.reply(number, length)
            case "read":
                reader.read(length)
        reader.check()
    reader.finish()


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_is_lost_while_it_fits(policy: str) -> None:
    reader = Reader(policy, 100_000)
    for _ in range(50):
        for room in ROOMS:
            reader.deliver(reader.chunk(room, 3))
    reader.finish()
    assert not reader.told
    assert reader.backlog.lost == 0


def test_drop_newest_keeps_what_waits() -> None:
    reader = Reader("drop-newest", 200)
    for _ in range(10):
        reader.deliver(reader.chunk("a", length=20))
    reader.finish()
    assert reader.told == {("a", seq) for seq in (3, 4, 5, 6, 7, 8, 9, 10)}
    assert reader.backlog.lost == 8


def test_drop_oldest_keeps_what_is_new() -> None:
    reader = Reader("drop-oldest", 1000)
    for _ in range(40):
        reader.deliver(reader.chunk("a", length=20))
    reader.finish()
    kept = 40 - len(reader.told)
    assert reader.told == {("a", seq) for seq in range(1, 41 - kept)}
    assert 5 <= kept <= 12


def test_conflate_keeps_the_newest_of_each_room() -> None:
    reader = Reader("conflate", 800)
    for _ in range(10):
        for room in ROOMS:
            reader.deliver(reader.chunk(room, 2, length=20))
    reader.finish()
    for room in ROOMS:
        assert (room, 20) not in reader.told
        assert (room, 1) in reader.told


@pytest.mark.parametrize("policy", POLICIES)
def test_a_chunk_larger_than_the_limit_is_told(policy: str) -> None:
    reader = Reader(policy, 100)
    reader.deliver(reader.chunk("a", 1, length=500))
    reader.finish()
    assert reader.told == {("a", 1)}


@pytest.mark.parametrize("policy", POLICIES)
def test_answers_are_kept_when_nothing_else_is(policy: str) -> None:
    reader = Reader(policy, 0)
    for number in range(20):
        reader.reply(number)
        reader.deliver(reader.chunk("a"))
    reader.finish()
    assert len(reader.told) == 20


def test_losses_that_nothing_separates_are_one_gap() -> None:
    reader = Reader()
    for _ in range(1000):
        for room in ROOMS:
            reader.backlog.lose(reader.chunk(room))
    assert len(reader.backlog.entries) == len(ROOMS)
    assert reader.backlog.size == LOSS_SIZE * len(ROOMS)
    reader.finish()


def test_an_answer_between_two_losses_keeps_them_apart() -> None:
    reader = Reader()
    reader.backlog.lose(reader.chunk("a"))
    reader.reply(1)
    reader.backlog.lose(reader.chunk("a"))
    data = reader.backlog.take(PLAIN, 1 << 30)
    assert [said["type"] for said in frames(data)] == ["gap", "pong", "gap"]


def test_a_loss_does_not_join_a_gap_that_was_read_already() -> None:
    reader = Reader()
    reader.backlog.lose(reader.chunk("a"))
    reader.read()
    reader.backlog.lose(reader.chunk("a"))
    reader.finish()


def test_take_returns_about_as_much_as_is_asked_for() -> None:
    reader = Reader()
    for _ in range(100):
        reader.deliver(reader.chunk("a", length=50))
    one = len(reader.chunk("b", length=50).data)
    data = reader.backlog.take(PLAIN, 1000)
    assert 1000 <= len(data) < 1000 + one + 10
    assert reader.backlog.take(PLAIN, 0) == b""
