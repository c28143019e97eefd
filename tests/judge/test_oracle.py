"""The oracle finds every fault, and only real faults."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labserver.judge.oracle import Oracle, disagreements, lost

FAULTS = ("duplicated", "reordered", "unsignalled", "altered")


def joined(seq: int, epoch: str = "e", recovered: bool = False) -> dict[str, Any]:
    return {
        "type": "joined",
        "room": "a",
        "epoch": epoch,
        "seq": seq,
        "recovered": recovered,
    }


def message(seq: int, payload: Any = None, room: str = "a") -> dict[str, Any]:
    payload = seq if payload is None else payload
    return {
        "type": "message",
        "room": room,
        "seq": seq,
        "from": "ann",
        "payload": payload,
    }


def gap(first: int, last: int) -> dict[str, Any]:
    return {"type": "gap", "room": "a", "from": first, "to": last, "reason": "slow"}


def watched(*messages: dict[str, Any]) -> Oracle:
    oracle = Oracle()
    for each in messages:
        oracle.saw(each)
    return oracle


def faults(oracle: Oracle) -> dict[str, list[int]]:
    """Return the seqs of faults by kind, without the kinds that have none."""
    found = {name: getattr(oracle.verdict, name) for name in FAULTS}
    return {
        name: [seq for *_, seq in places] for name, places in found.items() if places
    }


CLEAN = {
    "nothing": [],
    "in order": [joined(0), message(1), message(2)],
    "joined late": [joined(7), message(8)],
    "announced gap": [joined(0), message(1), gap(2, 4), message(5)],
    "gap at the end": [joined(0), message(1), gap(2, 4)],
    "replayed": [
        joined(0),
        message(1),
        joined(3, recovered=True),
        *map(message, (2, 3)),
    ],
    "not recovered": [joined(0), message(1), joined(9), message(10)],
    "not recovered, another epoch": [joined(5), message(6), joined(2, "f"), message(3)],
    "recovered, nothing missed": [joined(1), joined(1, recovered=True), message(2)],
    "answers between": [joined(0), message(1), {"type": "pong"}, message(2)],
    "never joined": [message(4), message(5)],
    "two rooms": [joined(0), message(1), message(9, room="b"), message(2)],
    "replayed to a client that was here before": [
        joined(9, recovered=True),
        *map(message, (8, 9, 10)),
    ],
    "told what is gone to a client that was here before": [
        joined(9, recovered=True),
        gap(8, 9),
        message(10),
    ],
}


@pytest.mark.parametrize("messages", CLEAN.values(), ids=CLEAN)
def test_nothing_is_found_where_nothing_is_wrong(messages) -> None:
    oracle = watched(*messages)
    assert faults(oracle) == {}
    assert oracle.verdict.clean


FAULTY: dict[str, tuple[list[dict[str, Any]], dict[str, list[int]]]] = {
    "lost": ([joined(0), message(1), message(3)], {"unsignalled": [2]}),
    "first lost": ([joined(0), message(2)], {"unsignalled": [1]}),
    "twice": ([joined(0), message(1), message(1)], {"duplicated": [1]}),
    "twice, later": (
        [joined(0), message(1), message(2), message(1)],
        {"duplicated": [1]},
    ),
    "swapped": (
        [joined(0), message(1), message(3), message(2), message(4)],
        {"reordered": [2]},
    ),
    "before the start": ([joined(5), message(5)], {"reordered": [5]}),
    "half a gap": ([joined(0), gap(2, 3), message(4)], {"unsignalled": [1]}),
    "gap too short": ([joined(0), gap(1, 2), message(4)], {"unsignalled": [3]}),
    "replay begins late": (
        [joined(0), message(1), joined(4, recovered=True), message(3), message(4)],
        {"unsignalled": [2]},
    ),
    "replay overlaps": (
        [joined(0), message(1), joined(2, recovered=True), message(1), message(2)],
        {"duplicated": [1]},
    ),
    "told to be lost, then sent": (
        [joined(0), gap(1, 1), message(1)],
        {"reordered": [1]},
    ),
}


@pytest.mark.parametrize(("messages", "expected"), FAULTY.values(), ids=FAULTY)
def test_each_fault_is_found_and_nothing_else(messages, expected) -> None:
    oracle = watched(*messages)
    assert faults(oracle) == expected
    assert not oracle.verdict.clean


def test_a_message_that_comes_twice_with_another_payload_was_altered() -> None:
    oracle = watched(joined(0), message(1, "x"), message(1, "y"))
    assert faults(oracle) == {"duplicated": [1], "altered": [1]}


def test_announced_gaps_are_counted_and_are_no_fault() -> None:
    oracle = watched(joined(0), message(1), gap(2, 4), joined(6), message(7))
    assert [seq for *_, seq in oracle.verdict.gaps] == [2, 3, 4, 5, 6]
    assert oracle.verdict.clean


def test_cursor_is_the_newest_place_that_is_known() -> None:
    assert watched().cursor("a") is None
    oracle = watched(joined(4), message(5), gap(6, 8))
    assert oracle.cursor("a") == {"epoch": "e", "seq": 8}


def test_loss_at_the_tail_is_found_by_what_was_acknowledged() -> None:
    oracle = watched(joined(0), message(1), gap(2, 2))
    assert oracle.verdict.clean
    assert lost(oracle, "a", [1, 2, 3, 4]) == [3, 4]
    assert lost(oracle, "b", []) == []


def test_two_clients_that_were_told_different_things_disagree() -> None:
    one = watched(joined(0), message(1, "x"), message(2, "y"))
    two = watched(joined(0), message(1, "x"), message(2, "z"))
    assert disagreements([one, one]) == []
    assert disagreements([one, two]) == [("a", "e", 2)]


def test_verdict_reads_as_a_sentence() -> None:
    oracle = watched(joined(0), message(1), message(1), message(4), gap(5, 5))
    assert str(oracle.verdict) == (
        "received 3, duplicated 1, unsignalled gaps 2, announced gaps 1"
    )


@settings(deadline=None, database=None, derandomize=True)
@given(
    st.integers(0, 20),
    st.sets(st.integers(1, 15), max_size=15),
    st.sets(st.integers(1, 15), max_size=5),
)
def test_unsignalled_is_exactly_what_neither_came_nor_was_announced(
    start: int, missing: set[int], announced: set[int]
) -> None:
    oracle = watched(joined(start))
    for seq in range(1, 16):
        if seq in announced:
            oracle.saw(gap(start + seq, start + seq))
        elif seq not in missing:
            oracle.saw(message(start + seq))
    oracle.saw(message(start + 16))
    silent = sorted(start + seq for seq in missing - announced)
    assert faults(oracle) == ({"unsignalled": silent} if silent else {})
