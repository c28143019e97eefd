"""Chapter 8: which messages to replay to a client that sends an event id."""

from __future__ import annotations

from labserver.notebook.workshop.exercises.exercise import Case, Exercise, Mistake


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


def one_ahead(last_id: str, epoch: str, oldest: int, newest: int) -> object:
    named, _, seq = last_id.rpartition(":")
    if named != epoch or not oldest - 1 <= int(seq) <= newest + 1:
        return None
    return list(range(int(seq) + 1, newest + 1))


def nothing_kept_before(last_id: str, epoch: str, oldest: int, newest: int) -> object:
    named, _, seq = last_id.rpartition(":")
    if named != epoch or not oldest <= int(seq) <= newest:
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
        Case(("e1:10", "e1", 1, 9), None),
        Case(("a:b:7", "a:b", 1, 8), [8]),
    ),
    mistakes=(
        Mistake(
            epoch_ignored,
            "In another epoch the same number is another message: the client gets "
            "messages that do not continue what it has, and does not notice.",
        ),
        Mistake(
            its_own_again,
            "The client already has the message with this id, and would get it twice.",
        ),
        Mistake(
            as_many_as_there_are,
            "A replay that begins after a hole looks complete. Replay everything, or "
            "tell the client that it missed messages.",
        ),
        Mistake(
            from_the_future,
            "A seq that the room has not reached yet is of another numbering: the "
            "client would skip the new messages with the numbers that it knows.",
        ),
        Mistake(
            one_ahead,
            "The room has not reached `newest + 1`: a client that has it speaks of "
            "another numbering.",
        ),
        Mistake(
            nothing_kept_before,
            "A client that has `oldest - 1` has missed only messages that are kept: it "
            "gets all of them.",
        ),
        Mistake(
            nothing_new_is_none,
            "A client that is up to date has missed nothing: replay an empty list.",
        ),
    ),
    look_at="`missed` in `labserver/stages/resume.py`, and `cursor_of` in "
    "`labserver/http/requests.py`",
    praise="The same cursor works on all three transports.",
)
