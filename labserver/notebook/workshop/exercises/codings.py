"""Chapter 12: which members of a room can get the same frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from labserver.notebook.workshop.exercises.exercise import Case, Exercise, Mistake

Members = dict[str, tuple[str | None, int]]
Groups = dict[tuple[str | None, int], list[str]]
JSON, CBOR = "lab.json", "lab.cbor"


def _grouped(
    members: Members,
    window: Callable[[int], int],
    named: Callable[[str | None], str | None] = lambda given: given or JSON,
) -> Groups:
    found: Groups = {}
    for name, (subprotocol, agreed) in members.items():
        found.setdefault((named(subprotocol), window(agreed)), []).append(name)
    return found


def _fitting(agreed: int) -> int:
    return 12 if agreed >= 12 else 9 if agreed else 0


def as_agreed(members: Members) -> Groups:
    return _grouped(members, lambda agreed: agreed)


def always_twelve(members: Members) -> Groups:
    return _grouped(members, lambda agreed: 12 if agreed else 0)


def always_nine(members: Members) -> Groups:
    return _grouped(members, lambda agreed: 9 if agreed else 0)


def compressed_for_all(members: Members) -> Groups:
    return _grouped(members, lambda agreed: 12 if agreed >= 12 else 9)


def rounded_up(members: Members) -> Groups:
    return _grouped(members, lambda agreed: 12 if agreed > 9 else 9 if agreed else 0)


def below_twelve(members: Members) -> Groups:
    return _grouped(members, lambda agreed: 12 if agreed > 12 else 9 if agreed else 0)


def only_both(members: Members) -> Groups:
    return _grouped(members, lambda agreed: agreed if agreed in (9, 12) else 0)


def none_apart(members: Members) -> Groups:
    return _grouped(members, _fitting, lambda given: given)


def one_subprotocol(members: Members) -> Groups:
    return _grouped(members, _fitting, lambda given: JSON)


def last_only(members: Members) -> Groups:
    return {key: names[-1:] for key, names in _grouped(members, _fitting).items()}


def _in_order(result: Any, given: tuple[Any, ...]) -> Any:
    # Groups may come in any order: a verdict compares text, and cases have this one.
    if not isinstance(result, dict):
        return result
    return dict(sorted(result.items(), key=repr))


EXERCISE = Exercise(
    name="sharing",
    cases=(
        Case(
            ({"ann": (JSON, 12), "bob": (JSON, 15), "eve": (JSON, 12)},),
            {(JSON, 12): ["ann", "bob", "eve"]},
        ),
        Case(
            ({"ann": (JSON, 9), "bob": (JSON, 11), "eve": (JSON, 12)},),
            {(JSON, 12): ["eve"], (JSON, 9): ["ann", "bob"]},
        ),
        Case(
            ({"ann": (JSON, 0), "bob": (None, 0), "eve": (JSON, 12)},),
            {(JSON, 0): ["ann", "bob"], (JSON, 12): ["eve"]},
        ),
        Case(
            ({"ann": (CBOR, 12), "bob": (JSON, 12), "eve": (CBOR, 0)},),
            {(CBOR, 0): ["eve"], (CBOR, 12): ["ann"], (JSON, 12): ["bob"]},
        ),
        Case(({},), {}),
    ),
    mistakes=(
        Mistake(
            as_agreed,
            "each size of a window is a group of its own, and each group is one more "
            "time that every message is compressed. A smaller window than agreed can "
            "be read by everybody.",
        ),
        Mistake(
            always_twelve,
            "a client that agreed on less than 12 bits has no room for what such a "
            "frame refers to, and cannot read it.",
        ),
        Mistake(
            always_nine,
            "everybody can read it, but a window of 512 bytes finds less that comes "
            "again: for each member the largest window that is allowed.",
        ),
        Mistake(
            compressed_for_all,
            "0 means that a client has not agreed to compression: it would end the "
            "connection at the first compressed frame.",
        ),
        Mistake(
            rounded_up,
            "10 and 11 bits are less than 12. The window may be smaller than agreed, "
            "never larger.",
        ),
        Mistake(
            below_twelve, "who agreed on exactly 12 bits can read a window of 12 bits."
        ),
        Mistake(
            only_both,
            "other sizes than 9 and 12 can be compressed for, too: with the next "
            "smaller one of the two.",
        ),
        Mistake(
            none_apart,
            "who agreed on no subprotocol gets JSON, so it is the same frame as for "
            "`lab.json`.",
        ),
        Mistake(
            one_subprotocol,
            "JSON goes in a text frame, CBOR in a binary one, and the bytes differ: "
            "the subprotocol is part of what is shared.",
        ),
        Mistake(
            last_only,
            "the second member of a group takes the place of the first. Put a list "
            "there once, and append to it.",
        ),
    ),
    look_at="`negotiated` in `labserver/contract/wire.py`.",
    praise="However many members a room has, a message is built once for each of these "
    "groups.",
    outcome=_in_order,
)
