"""Chapter 3: clean both indexes when a connection ends."""

from __future__ import annotations

from typing import Any

from labserver.notebook.workshop.exercises.exercise import Case, Exercise, Mistake

Index = dict[str, set[str]]


def keeps_empty_rooms(who: str, members: Index, rooms: Index) -> None:
    for room in rooms.pop(who, set()):
        members[room].discard(who)


def keeps_own_index(who: str, members: Index, rooms: Index) -> None:
    for room in rooms.get(who, set()):
        members[room].discard(who)
        if not members[room]:
            del members[room]


def keeps_both(who: str, members: Index, rooms: Index) -> None:
    for room in rooms.get(who, set()):
        members[room].discard(who)


def first_room_only(who: str, members: Index, rooms: Index) -> None:
    for room in sorted(rooms.pop(who, set())):
        members[room].discard(who)
        if not members[room]:
            del members[room]
        return


def deletes_rooms(who: str, members: Index, rooms: Index) -> None:
    for room in rooms.pop(who, set()):
        members.pop(room, None)


def _indexes(result: Any, given: tuple[Any, ...]) -> tuple[dict[str, list[str]], ...]:
    # Sets print in any order: a verdict compares text.
    return tuple(
        {key: sorted(index[key]) for key in sorted(index)} for index in given[1:]
    )


EXERCISE = Exercise(
    name="forget",
    cases=(
        Case(
            (
                "ann",
                {"lobby": {"ann", "bob"}, "team": {"ann"}},
                {"ann": {"lobby", "team"}, "bob": {"lobby"}},
            ),
            ({"lobby": ["bob"]}, {"bob": ["lobby"]}),
        ),
        Case(
            ("bob", {"lobby": {"ann", "bob"}}, {"ann": {"lobby"}, "bob": {"lobby"}}),
            ({"lobby": ["ann"]}, {"ann": ["lobby"]}),
        ),
        Case(
            (
                "eve",
                {"a": {"eve", "bob"}, "b": {"eve", "bob"}},
                {"eve": {"a", "b"}, "bob": {"a", "b"}},
            ),
            ({"a": ["bob"], "b": ["bob"]}, {"bob": ["a", "b"]}),
        ),
        Case(
            ("kim", {"lobby": {"ann"}}, {"ann": {"lobby"}}),
            ({"lobby": ["ann"]}, {"ann": ["lobby"]}),
        ),
    ),
    mistakes=(
        Mistake(
            keeps_empty_rooms,
            "an empty room stays in `members`. A server whose rooms are named after "
            "documents or orders would use more memory every day.",
        ),
        Mistake(
            keeps_own_index,
            "the connection stays in `rooms`: an entry for every client so far.",
        ),
        Mistake(
            keeps_both,
            "the member is gone, but the empty room stays in `members` and the "
            "connection in `rooms`.",
        ),
        Mistake(
            first_room_only,
            "a `return` inside the loop ends it after the first room: the connection "
            "stays a member of the others.",
        ),
        Mistake(
            deletes_rooms, "others are still in that room. Delete only empty rooms."
        ),
    ),
    look_at="`Hub.remove` in `labserver/server/hub.py`.",
    praise="Both indexes are clean, and you only looked at this connection's rooms, "
    "not at all rooms.",
    outcome=_indexes,
)
