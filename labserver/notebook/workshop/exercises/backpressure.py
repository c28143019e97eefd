"""Chapter 5: drop the oldest messages, and return the gap."""

from __future__ import annotations

from labserver.notebook.workshop.exercises.exercise import Case, Exercise, Mistake

Message = tuple[int, int]  # seq, bytes
Kept = tuple[list[Message], tuple[int, int] | None]


def silently(waiting: list[Message], message: Message, limit: int) -> Kept:
    waiting.append(message)
    while sum(size for _, size in waiting) > limit:
        waiting.pop(0)
    return waiting, None


def newest(waiting: list[Message], message: Message, limit: int) -> Kept:
    if sum(size for _, size in waiting) + message[1] > limit:
        return waiting, (message[0], message[0])
    return [*waiting, message], None


def one_only(waiting: list[Message], message: Message, limit: int) -> Kept:
    waiting.append(message)
    if sum(size for _, size in waiting) > limit:
        seq, _ = waiting.pop(0)
        return waiting, (seq, seq)
    return waiting, None


def by_count(waiting: list[Message], message: Message, limit: int) -> Kept:
    lost = []
    waiting.append(message)
    while len(waiting) > 3:
        lost.append(waiting.pop(0)[0])
    return waiting, (lost[0], lost[-1]) if lost else None


def exclusive(waiting: list[Message], message: Message, limit: int) -> Kept:
    lost = []
    waiting.append(message)
    while sum(size for _, size in waiting) > limit:
        lost.append(waiting.pop(0)[0])
    return waiting, (lost[0], lost[-1] + 1) if lost else None


def below_the_limit(waiting: list[Message], message: Message, limit: int) -> Kept:
    lost = []
    waiting.append(message)
    while sum(size for _, size in waiting) >= limit:
        lost.append(waiting.pop(0)[0])
    return waiting, (lost[0], lost[-1]) if lost else None


def never_the_newest(waiting: list[Message], message: Message, limit: int) -> Kept:
    lost = []
    waiting.append(message)
    while sum(size for _, size in waiting) > limit and len(waiting) > 1:
        lost.append(waiting.pop(0)[0])
    return waiting, (lost[0], lost[-1]) if lost else None


def unbounded(waiting: list[Message], message: Message, limit: int) -> Kept:
    return [*waiting, message], None


EXERCISE = Exercise(
    name="drop_oldest",
    cases=(
        Case(([(1, 40)], (2, 40), 100), ([(1, 40), (2, 40)], None)),
        Case(
            ([(1, 40), (2, 40)], (3, 40), 100),
            ([(2, 40), (3, 40)], (1, 1)),
        ),
        Case(
            ([(4, 30), (5, 30), (6, 30)], (7, 70), 100),
            ([(6, 30), (7, 70)], (4, 5)),
        ),
        Case(
            ([(1, 10), (2, 10), (3, 10)], (4, 10), 100),
            ([(1, 10), (2, 10), (3, 10), (4, 10)], None),
        ),
        Case(([(1, 60)], (2, 40), 100), ([(1, 60), (2, 40)], None)),
        Case(([(1, 40)], (2, 101), 100), ([], (1, 2))),
    ),
    mistakes=(
        Mistake(
            silently,
            "the limit holds, but the client is not told. It shows a state that never "
            "existed; with a gap it would load the state again.",
        ),
        Mistake(
            newest,
            "this drops the newest. It is a policy too (`drop-newest`), but not the "
            "one asked for.",
        ),
        Mistake(
            one_only,
            "one old message may be smaller than the new one: use `while`, not `if`.",
        ),
        Mistake(
            by_count,
            "the limit is in bytes. Three messages may be three bytes or three "
            "megabytes.",
        ),
        Mistake(
            exclusive,
            "`to` is inclusive (wire contract): this gap claims a message that is "
            "about to be delivered.",
        ),
        Mistake(
            below_the_limit,
            "exactly `limit` bytes may wait: drop while the sum is more than that.",
        ),
        Mistake(
            never_the_newest,
            "the last message alone is larger than the limit, and was kept: then it is "
            "dropped as well.",
        ),
        Mistake(unbounded, "there is no limit: this is the server of stage 4."),
    ),
    look_at="`Backlog.squeeze` and `lose_where` in `labserver/stages/backlog.py`.",
    praise="The queue has a limit, and the client is told. The lab drops a quarter at "
    "a time, because each pass through the queue takes time, too.",
)
