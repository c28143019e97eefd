"""Chapter 8: what a client that names an event id is to be given."""

from __future__ import annotations

from labserver.notebook.exercises.exercise import Case, Exercise, Mistake


def epoch_ignored(last_id: str, epoch: str, oldest: int, newest: int) -> object:
    seq = int(last_id.rpartition(":")[2])
    if not oldest - 1 <= seq <= newest:
        return None
    return list(range(seq + 1, newest + 1))


def its_own_again(last_id: str, epoch: str, oldest: int, newest: int) -> object:
    named, _, seq = last_id.rpartition(":")
    if named != epoch or not oldest - 1 <= int(seq) <= newest:
        return None
    return list(range(int(seq), newest + 1))


def as_many_as_there_are(last_id: str, epoch: str, oldest: int, newest: int) -> object:
    named, _, seq = last_id.rpartition(":")
    if named != epoch or int(seq) > newest:
        return None
    return list(range(max(int(seq) + 1, oldest), newest + 1))


def from_the_future(last_id: str, epoch: str, oldest: int, newest: int) -> object:
    named, _, seq = last_id.rpartition(":")
    if named != epoch or int(seq) < oldest - 1:
        return None
    return list(range(int(seq) + 1, newest + 1))


def nothing_new_is_none(last_id: str, epoch: str, oldest: int, newest: int) -> object:
    named, _, seq = last_id.rpartition(":")
    if named != epoch or not oldest - 1 <= int(seq) <= newest:
        return None
    return list(range(int(seq) + 1, newest + 1)) or None


EXERCISE = Exercise(
    name="to_replay",
    cases=(
        Case(("e1:7", "e1", 1, 9), [8, 9]),
        Case(("e1:9", "e1", 1, 9), []),
        Case(("e1:3", "e1", 4, 6), [4, 5, 6]),
        Case(("e1:2", "e1", 4, 6), None),
        Case(("e1:7", "e2", 1, 9), None),
        Case(("e1:12", "e1", 1, 9), None),
        Case(("a:b:7", "a:b", 1, 8), [8]),
    ),
    mistakes=(
        Mistake(
            epoch_ignored,
            "The same number in another epoch names another message: what the client "
            "has and what you send do not fit together, and nobody notices.",
        ),
        Mistake(
            its_own_again,
            "The id names a message that the client has: it would get it twice.",
        ),
        Mistake(
            as_many_as_there_are,
            "A replay that begins after a hole looks whole. All, or tell it that it "
            "missed something.",
        ),
        Mistake(
            from_the_future,
            "A seq that the room has not reached cannot be answered with 'nothing "
            "new': the client would wait for numbers that mean something else.",
        ),
        Mistake(
            nothing_new_is_none,
            "A client that is up to date has missed nothing: an empty replay is one.",
        ),
    ),
    look_at="`missed` in `labserver/stages/resume.py`, and `cursor_of` in "
    "`labserver/http/app.py`",
    praise="One cursor serves three transports: the promise is the room's, not theirs.",
)
