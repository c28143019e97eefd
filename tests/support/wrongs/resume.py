"""Wrong solutions of chapter 7, and how their explanations begin."""

from __future__ import annotations

from tests.support.wrongs.wrong import Wrong

CONTINUES = "position.continues(cursor.epoch, cursor.seq)"

KEPT = "position.kept[len(position.kept) - count :]"

RANDOM = "draw() * ceiling"

LATE_CAP = "min(20.0, draw() * 0.5 * 2.0 ** min(attempt, 10))"

WRONGS: tuple[Wrong, ...] = (
    Wrong(
        "half a replay",
        "a replay with a hole",
        (
            ("count < 0 or count > len(position.kept)", "count < 0"),
            (KEPT, "[e for e in position.kept if e.first > cursor.seq]"),
        ),
    ),
    Wrong(
        "one message short",
        "a replay with a hole",
        (("count > len(position.kept)", "count > len(position.kept) + 1"),),
    ),
    Wrong(
        "an empty replay for none",
        "an empty list says",
        (
            (
                "            return None  # it is ahead",
                "            return []  # it is ahead",
            ),
            ("count < 0 or", "count >= 0 and"),
            (
                "        missed = position",
                "        if count < 0:\n            return None\n"
                "        missed = position",
            ),
        ),
    ),
    Wrong(
        "by the limit, not by what is kept",
        "messages are also forgotten",
        (("len(position.kept):", "self.limit:"),),
    ),
    Wrong(
        "one too many",
        "a client was refused",
        (("position.seq - cursor.seq", "position.seq - cursor.seq + 1"),),
    ),
    Wrong(
        "with the cursor's own",
        "somebody got messages again",
        ((KEPT, "[e for e in position.kept if e.first >= cursor.seq]"),),
    ),
    Wrong(
        "all that was read",
        "somebody got messages again",
        ((KEPT, "position.kept"),),
    ),
    Wrong(
        "from the future",
        "a cursor that is ahead",
        (
            ("count < 0 or ", ""),
            (KEPT, "[e for e in position.kept if e.first > cursor.seq]"),
        ),
    ),
    Wrong("no epoch", "a seq was compared", ((CONTINUES, "cursor.seq >= 0"),)),
    Wrong(
        "equal epochs only",
        "only equal epochs",
        ((CONTINUES, "cursor.epoch == position.epoch"),),
    ),
    Wrong(
        "the epoch before, and all of it",
        "the new epoch shares",
        (
            (
                CONTINUES,
                "(cursor.epoch in (position.epoch, position.before[0] or None))",
            ),
        ),
    ),
    Wrong("any size", "the replay was larger", (("> self.replay_limit", "< 0"),)),
    Wrong(
        "nothing for none",
        "a client that has the newest",
        (("return missed", "return missed or None"),),
    ),
    Wrong(
        "who was never here",
        "a client that comes for the first",
        (("if cursor is None:", "if cursor == 0:"),),
    ),
    *(
        Wrong(name, because, edits, number=2)
        for name, because, *edits in (
            ("no jitter", "all clients lost", (" * ceiling", " * 0 + ceiling")),
            (
                "at once",
                "the first attempt comes",
                (RANDOM, f"({RANDOM}) * (attempt > 0)"),
            ),
            (
                "half jitter",
                "only a part",
                ("draw() * ceiling", "(1 + draw()) * ceiling / 2"),
            ),
            ("no cap", "there is no cap", ("20.0, ", "1e9, ")),
            ("cap after the draw", "the cap comes after", (RANDOM, LATE_CAP)),
            (
                "doubled first",
                "the ceiling is doubled",
                ("(attempt,", "(attempt + 1,"),
            ),
            (
                "linear",
                "the ceiling does not",
                ("2.0 ** min(attempt, 10)", "(attempt + 1)"),
            ),
            (
                "a source of its own",
                "attempt 0 waits another",
                ("draw()", "__import__('random').random()"),
            ),
            ("a night", "`0.5 * 2**attempt`", ("min(attempt, 10)", "attempt")),
            (
                "comes back anyway",
                "the close was not",
                ("comes_back(told.code)", "None"),
            ),
            (
                "with the same token",
                "the close was not",
                (", Return.NEW_TOKEN)", ",)"),
            ),
            (
                "no look at the status",
                "a refusal at the door",
                ("told.status is not None", "False"),
            ),
            (
                "gives up",
                "the server said",
                ("Return.NEW_TOKEN)", "Return.NEW_TOKEN, Return.LATER)"),
            ),
            ("does not wait", "the server asked", ("told.wait + ", "")),
            (
                "waits as told, and no more",
                "all clients that were refused",
                (RANDOM, f"told.wait or {RANDOM}"),
            ),
        )
    ),
)
