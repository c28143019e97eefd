"""Chapter 10: how many replicas."""

from __future__ import annotations

from math import ceil

from labserver.notebook.workshop.exercises.exercise import Case, Exercise, Mistake


def no_headroom(publishes: float, members: int, cost: float, zones: int) -> int:
    return ceil(ceil(publishes * members * cost) / (zones - 1)) * zones


def no_zone(publishes: float, members: int, cost: float, zones: int) -> int:
    return ceil(ceil(publishes * members * cost / 0.5) / zones) * zones


def one_more(publishes: float, members: int, cost: float, zones: int) -> int:
    return ceil(publishes * members * cost / 0.5) + 1


def rounded_down(publishes: float, members: int, cost: float, zones: int) -> int:
    return int(publishes * members * cost / 0.5) // (zones - 1) * zones


def always_one_more(publishes: float, members: int, cost: float, zones: int) -> int:
    needed = int(publishes * members * cost / 0.5) + 1
    return ceil(needed / (zones - 1)) * zones


def publishes_only(publishes: float, members: int, cost: float, zones: int) -> int:
    return ceil(ceil(publishes * cost / 0.5) / (zones - 1)) * zones


def one_zone(publishes: float, members: int, cost: float, zones: int) -> int:
    return ceil(ceil(publishes * members * cost / 0.5) / (zones - 1))


# Costs and shares are powers of two, so that no case depends on rounding.
EXERCISE = Exercise(
    name="replicas",
    cases=(
        Case((1024, 64, 2**-16, 3), 3),
        Case((8192, 64, 2**-16, 3), 24),
        Case((10240, 64, 2**-16, 3), 30),
        Case((8192, 100, 2**-16, 3), 39),
        Case((8192, 64, 2**-16, 2), 32),
        Case((9000, 70, 2**-16, 4), 28),
    ),
    mistakes=(
        Mistake(
            no_headroom,
            "a core that is busy all the time has a queue that only grows. There is no "
            "time left for handshakes, a pause or a burst.",
        ),
        Mistake(
            no_zone,
            "when a zone is lost, its clients come to the other zones, which are full. "
            "The others must suffice: divide by `zones - 1`.",
        ),
        Mistake(
            one_more,
            "one spare replica is enough when one replica dies. Here a whole zone is "
            "lost, with all its replicas.",
        ),
        Mistake(
            rounded_down,
            "half a replica does not exist: round up, at each step.",
        ),
        Mistake(
            always_one_more,
            "exactly half busy is allowed: `int(...) + 1` adds a replica where none is "
            "missing. Round up with `ceil`.",
        ),
        Mistake(
            publishes_only,
            "a message is published once and delivered to each member. The deliveries "
            "are the cost.",
        ),
        Mistake(one_zone, "this is what one zone needs; there are `zones` of them."),
    ),
    look_at="`plan` in `labserver/notebook/sizing/fleet.py`.",
    praise="The model of this chapter also counts receiving, publishing, heartbeats "
    "and handshakes.",
)
