"""Chapter 6: find the holes in the sequence numbers that arrived."""

from __future__ import annotations

from labserver.notebook.workshop.exercises.exercise import Case, Exercise, Mistake

Holes = list[tuple[int, int]]


def first_only(delivered: int, arriving: list[int]) -> Holes:
    for seq in arriving:
        if seq > delivered + 1:
            return [(delivered + 1, seq - 1)]
        delivered = max(delivered, seq)
    return []


def exclusive(delivered: int, arriving: list[int]) -> Holes:
    found = []
    for seq in arriving:
        if seq > delivered + 1:
            found.append((delivered + 1, seq))
        delivered = max(delivered, seq)
    return found


def believes_all(delivered: int, arriving: list[int]) -> Holes:
    found = []
    for seq in arriving:
        if seq > delivered + 1:
            found.append((delivered + 1, seq - 1))
        delivered = seq
    return found


def unequal(delivered: int, arriving: list[int]) -> Holes:
    found = []
    for seq in arriving:
        if seq != delivered + 1:
            found.append((delivered + 1, seq - 1))
        delivered = seq
    return found


def from_the_first(delivered: int, arriving: list[int]) -> Holes:
    return holes_between(arriving[0], arriving[1:]) if arriving else []


def holes_between(delivered: int, arriving: list[int]) -> Holes:
    found = []
    for seq in arriving:
        if seq > delivered + 1:
            found.append((delivered + 1, seq - 1))
        delivered = max(delivered, seq)
    return found


def next_is_a_hole(delivered: int, arriving: list[int]) -> Holes:
    found = []
    for seq in arriving:
        if seq >= delivered + 1:
            found.append((delivered + 1, seq - 1))
        delivered = max(delivered, seq)
    return found


EXERCISE = Exercise(
    name="holes",
    cases=(
        Case((0, [1, 2, 3]), []),
        Case((4, [7, 8]), [(5, 6)]),
        Case((0, [1, 3, 4, 8]), [(2, 2), (5, 7)]),
        Case((5, [4, 5, 6]), []),
        Case((2, [3, 3, 5, 4, 6]), [(4, 4)]),
        Case((9, []), []),
    ),
    mistakes=(
        Mistake(first_only, "this stops at the first hole. A link may break twice."),
        Mistake(
            exclusive,
            "both ends are inclusive: `seq` itself has arrived and is not missing.",
        ),
        Mistake(
            believes_all,
            "an old number must not move the position back: a seq that comes late or "
            "twice would then cause a hole where there is none.",
        ),
        Mistake(
            unequal,
            "a number that comes late or twice is not a hole. Only a number that is "
            "too high shows one.",
        ),
        Mistake(
            next_is_a_hole,
            "the next seq, `delivered + 1`, shows no hole: nothing lies between.",
        ),
        Mistake(
            from_the_first,
            "the hole before the first arrival is missing: `delivered` is where the "
            "replica was.",
        ),
    ),
    look_at="`RedisBroker.heard` in `labserver/stages/broker.py` and `Feed` in "
    "`labserver/redis/feed.py`.",
    praise="Because the numbers have no holes, a loss shows as soon as the next "
    "message arrives.",
)
