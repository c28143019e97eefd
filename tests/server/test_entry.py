"""A join gets every message once, whatever happens while it is on its way."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from labserver.contract.messages import Event, Joined, encode, event
from labserver.judge.oracle import Oracle
from labserver.server.entry import Entry


def message(seq: int) -> Event:
    return event("a", seq, b'"from":"ann","payload":1}')


def messages(first: int, last: int) -> list[Event]:
    return [message(seq) for seq in range(first, last + 1)]


def joined(epoch: str, seq: int, recovered: bool = False, ref: int = 7) -> Joined:
    return Joined("a", epoch, seq, recovered, ref)


def entry(again: bool = False) -> Entry:
    return Entry(object(), "a", "e" if again else "", again)


def deliver(join: Entry, first: int, last: int) -> None:
    for each in messages(first, last):
        join.deliver(each)


def renumber(join: Entry, epoch: str, seq: int, goes_on: bool) -> None:
    join.renumber(Joined("a", epoch, seq, recovered=goes_on))


def sent(steps) -> list[tuple[str, str | None, list[int]]]:
    """Return the epoch, the answer and the seqs of each step that sends something."""
    return [
        (epoch, answer and told(answer), [each.last for each in events])
        for epoch, answer, events in steps
        if answer is not None or events
    ]


def told(answer: Joined) -> str:
    ref = "" if answer.ref != 7 else " answer"
    return f"{answer.epoch}:{answer.seq}{' recovered' * answer.recovered}{ref}"


# Without a new numbering


def test_what_came_meanwhile_follows_what_was_missed() -> None:
    join = entry()
    deliver(join, 6, 7)
    assert sent(join.entered(joined("e", 5, True), messages(3, 5))) == [
        ("e", "e:5 recovered answer", [3, 4, 5]),
        ("e", None, [6, 7]),
    ]


def test_what_was_missed_and_came_meanwhile_too_is_sent_once() -> None:
    join = entry()
    deliver(join, 4, 7)
    assert sent(join.entered(joined("e", 5, True), messages(3, 5))) == [
        ("e", "e:5 recovered answer", [3, 4, 5]),
        ("e", None, [6, 7]),
    ]


def test_what_came_before_the_answer_is_not_for_a_newcomer() -> None:
    join = entry()
    deliver(join, 4, 6)
    assert sent(join.entered(joined("e", 5), ())) == [
        ("e", "e:5 answer", []),
        ("e", None, [6]),
    ]


def test_member_that_joins_again_gets_first_what_it_was_owed() -> None:
    join = entry(again=True)
    deliver(join, 4, 6)
    assert sent(join.entered(joined("e", 5), ())) == [
        ("e", None, [4, 5]),
        ("e", "e:5 answer", []),
        ("e", None, [6]),
    ]


def test_member_whose_join_fails_gets_what_came_meanwhile() -> None:
    join = entry(again=True)
    deliver(join, 4, 6)
    assert sent(join.given_up()) == [("e", None, [4, 5, 6])]


# A numbering that goes on


def test_epoch_that_goes_on_is_told_between_what_was_missed_and_what_came() -> None:
    join = entry()
    deliver(join, 4, 5)
    renumber(join, "f", 5, goes_on=True)
    deliver(join, 6, 7)
    assert sent(join.entered(joined("e", 5, True), messages(3, 5))) == [
        ("e", "e:5 recovered answer", [3, 4, 5]),
        ("f", "f:5 recovered", []),
        ("f", None, [6, 7]),
    ]


def test_epoch_that_was_read_already_is_not_told_twice() -> None:
    join = entry()
    renumber(join, "f", 5, goes_on=True)
    deliver(join, 5, 7)
    assert sent(join.entered(joined("f", 6, True), messages(3, 6))) == [
        ("f", "f:6 recovered answer", [3, 4, 5, 6]),
        ("f", None, [7]),
    ]


def test_of_two_epochs_that_go_on_the_newest_is_told() -> None:
    join = entry()
    renumber(join, "f", 5, goes_on=True)
    renumber(join, "g", 6, goes_on=True)
    deliver(join, 6, 7)
    assert sent(join.entered(joined("f", 5), ())) == [
        ("f", "f:5 answer", []),
        ("g", "g:6 recovered", []),
        ("g", None, [6, 7]),
    ]


def test_member_that_joins_again_is_told_of_an_epoch_that_goes_on() -> None:
    join = entry(again=True)
    deliver(join, 4, 4)
    renumber(join, "f", 4, goes_on=True)
    deliver(join, 5, 6)
    assert sent(join.entered(joined("f", 5), ())) == [
        ("e", None, [4, 5]),
        ("f", "f:5 answer", []),
        ("f", None, [6]),
    ]


# A numbering that is lost


def test_what_was_read_of_a_lost_numbering_is_void() -> None:
    join = entry()
    deliver(join, 4, 6)
    renumber(join, "f", 1, goes_on=False)
    deliver(join, 2, 3)
    assert sent(join.entered(joined("e", 5, True), messages(3, 5))) == [
        ("f", "f:1 answer", [2, 3])
    ]


def test_loss_is_told_though_the_next_epoch_goes_on() -> None:
    join = entry()
    renumber(join, "f", 1, goes_on=False)
    deliver(join, 2, 3)
    renumber(join, "g", 3, goes_on=True)
    deliver(join, 4, 4)
    assert sent(join.entered(joined("e", 9), ())) == [("g", "g:1 answer", [2, 3, 4])]


def test_loss_after_an_epoch_that_goes_on_is_told() -> None:
    join = entry()
    renumber(join, "f", 9, goes_on=True)
    deliver(join, 10, 10)
    renumber(join, "g", 0, goes_on=False)
    deliver(join, 1, 1)
    assert sent(join.entered(joined("f", 9), ())) == [("g", "g:0 answer", [1])]


def test_client_that_knows_the_new_numbering_already_gets_nothing_twice() -> None:
    # Another replica has told it of the numbering before this one noticed.
    join = entry()
    renumber(join, "f", 0, goes_on=False)
    deliver(join, 1, 5)
    assert sent(join.entered(joined("f", 4, True), messages(4, 4))) == [
        ("f", "f:4 recovered answer", [4]),
        ("f", None, [5]),
    ]


def test_member_whose_join_fails_is_told_of_a_lost_numbering() -> None:
    join = entry(again=True)
    deliver(join, 4, 6)
    renumber(join, "f", 0, goes_on=False)
    deliver(join, 1, 2)
    assert sent(join.given_up()) == [("f", "f:0", [1, 2])]


# Whatever happens


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(
    before=st.lists(st.sampled_from(["message", "goes on", "is lost"]), max_size=6),
    after=st.lists(st.sampled_from(["message", "goes on", "is lost"]), max_size=6),
    again=st.booleans(),
    missed=st.integers(0, 3),
)
def test_client_misses_nothing_without_a_word(
    before: list[str], after: list[str], again: bool, missed: int
) -> None:
    join, client = Entry(object(), "a", "0", again), Oracle()
    number, seq, known = 0, 5, 5 if again else 5 - missed
    client.saw(json.loads(encode(joined("0", known))))
    answer, replay = None, []
    for happens in [*before, "read", *after]:
        match happens:
            case "message":
                seq += 1
                join.deliver(message(seq))
            case "goes on" | "is lost":
                number, seq = number + 1, 0 if happens == "is lost" else seq
                renumber(join, f"{number}", seq, goes_on=happens == "goes on")
            case "read":
                recovered = "is lost" not in before and not again
                answer = joined(f"{number}", seq, recovered)
                replay = messages(known + 1, seq) if recovered else []
    for _, told, events in join.entered(answer, replay):
        for text in [encode(told)] * (told is not None) + [e.json for e in events]:
            client.saw(json.loads(text))
    assert client.verdict.clean, str(client.verdict)
    assert client.cursor("a") == {"epoch": f"{number}", "seq": seq}
    assert not client.verdict.gaps or "is lost" in before + after
