"""Chapter 4: find the dead peers."""

from __future__ import annotations

from typing import Any

from labserver.notebook.workshop.exercises.exercise import Case, Exercise, Mistake

Peers = dict[str, dict[str, float]]


def first_only(peers: Peers, now: float, patience: float) -> list[str]:
    for name, peer in peers.items():
        if peer["pinged"] > peer["seen"] and now - peer["pinged"] >= patience:
            return [name]
    return []


def impatient(peers: Peers, now: float, patience: float) -> list[str]:
    return [name for name, peer in peers.items() if peer["pinged"] > peer["seen"]]


def quiet_is_dead(peers: Peers, now: float, patience: float) -> list[str]:
    return [name for name, peer in peers.items() if now - peer["seen"] >= patience]


def pongs_only(peers: Peers, now: float, patience: float) -> list[str]:
    return [
        name
        for name, peer in peers.items()
        if peer["pinged"] > peer["ponged"] and now - peer["pinged"] >= patience
    ]


def later_than(peers: Peers, now: float, patience: float) -> list[str]:
    return [
        name
        for name, peer in peers.items()
        if peer["pinged"] > peer["seen"] and now - peer["pinged"] > patience
    ]


def same_moment(peers: Peers, now: float, patience: float) -> list[str]:
    return [
        name
        for name, peer in peers.items()
        if peer["pinged"] >= peer["seen"] and now - peer["pinged"] >= patience
    ]


def _peer(pinged: float, ponged: float, seen: float) -> dict[str, float]:
    return {"pinged": pinged, "ponged": ponged, "seen": seen}


def _sorted(result: Any, given: tuple[Any, ...]) -> Any:
    return sorted(result, key=repr) if isinstance(result, list) else result


EXERCISE = Exercise(
    name="dead",
    cases=(
        Case(({"ann": _peer(10, 10.1, 10.1)}, 11.0, 0.75), []),
        Case(({"bob": _peer(10, 9.1, 9.1)}, 11.0, 0.75), ["bob"]),
        Case(
            (
                {
                    "ann": _peer(10, 10.1, 10.1),
                    "bob": _peer(10, 9.1, 9.1),
                    "eve": _peer(10, 8.0, 8.0),
                },
                11.0,
                0.75,
            ),
            ["bob", "eve"],
        ),
        Case(({"kim": _peer(10.9, 9.9, 9.9)}, 11.0, 0.75), []),
        Case(({"talker": _peer(10, 9.1, 10.4)}, 11.0, 0.75), []),
        Case(({"max": _peer(10, 9.0, 9.0)}, 10.75, 0.75), ["max"]),
        Case(({"una": _peer(10, 9.0, 10)}, 11.0, 0.75), []),
    ),
    mistakes=(
        Mistake(
            first_only,
            "a `return` inside the loop ends the sweep at the first dead peer. With "
            "one removed in each sweep, many dead peers take very long.",
        ),
        Mistake(
            impatient,
            "the ping to `kim` is 0.1 s old: it may still be on its way. Judge only "
            "pings older than `patience`.",
        ),
        Mistake(
            quiet_is_dead,
            "a quiet peer is not dead. Only a ping without an answer says so.",
        ),
        Mistake(
            pongs_only,
            "`talker` sent something after the ping. Any frame is a sign of life, and "
            "a pong may queue behind a large message.",
        ),
        Mistake(
            later_than,
            "the ping to `max` is exactly `patience` seconds old. That is enough: the "
            "text says at least.",
        ),
        Mistake(
            same_moment,
            "`una` was seen at the same moment as its ping was sent: that counts as a "
            "sign of life since the ping.",
        ),
    ),
    look_at="`WheelHeartbeat.step` and `is_dead` in `labserver/stages/heartbeat.py`.",
    praise="Every dead peer is found, and no peer that has shown a sign of life.",
    outcome=_sorted,
)
