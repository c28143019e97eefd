"""Why the best known wrong versions of a history are wrong."""

from __future__ import annotations

from labserver.notebook.workshop.reasons.reason import Reason

REASONS: tuple[Reason, ...] = (
    Reason(
        "",
        "'NoneType' object has no attribute '(epoch|seq)'",
        "a client that comes for the first time has no cursor: it is `None`.",
    ),
    Reason(
        "cursor_that_is_too_old_is_refused",
        "not recovered, though all",
        "a client was refused of which no message is missing. From seq 5 to seq "
        "25 it missed 20, not 21: its cursor is a message that it has.",
    ),
    Reason(
        "cursor_that_means_nothing_is_refused",
        "recovered by a cursor .*nonsense",
        "a seq was compared without its epoch. After Redis has lost its memory, "
        "the room counts from 1 again: the same number is another message then. "
        "`position.continues` looks at both.",
    ),
    Reason(
        "cursor_that_means_nothing_is_refused",
        "recovered by a cursor",
        "a cursor that is ahead of the room was taken for one that missed nothing. "
        "It names a message that this room never had, so nobody knows what the "
        "client has.",
    ),
    Reason(
        "numbering_that_goes_on_recovers",
        "^not refused",
        "the new epoch shares only the first messages of the one before. What came "
        "after them is lost, and a cursor from there names another message now.",
    ),
    Reason(
        "numbering_that_goes_on_recovers",
        "^refused",
        "only equal epochs were accepted. When another Redis takes over, the epoch "
        "is new and most of the numbers go on, so every client would load all "
        "again. `position.continues` knows of it.",
    ),
    Reason(
        "cursor_that_is_too_old_is_refused",
        "recovered, with 0 of",
        "an empty list says that nothing was missed. Where a message is missing, "
        "return `None`: only then the client is told.",
    ),
    Reason(
        "cursor_that_is_too_old_is_refused",
        "recovered, with",
        "a replay with a hole was sent as a whole one. Count what the client "
        "missed, by the two seqs, and compare that with what you have for it.",
    ),
    Reason(
        "history_is_forgotten_with_age",
        "in vain for old messages",
        "messages are also forgotten with age, and then fewer than `limit` are "
        "kept. Look at what is in `position.kept`, not at what it may hold.",
    ),
    Reason(
        "replay_is_not_larger_than_an_outbox",
        "4409|recovered, with",
        "the replay was larger than the client's outbox, and so the server ended "
        "it as too slow. It would come back with the same cursor, for ever. Add up "
        "the bytes, and return `None` above `replay_limit`.",
    ),
    Reason(
        "who_returns_together_gets_its_own",
        "came again",
        "somebody got messages again. Several clients that come back at once share "
        "a reading, so `kept` may begin before a cursor: take only what is after "
        "it, and not the message of the cursor itself.",
    ),
    Reason(
        "who_missed_nothing_is_told_so",
        "not recovered",
        "a client that has the newest message missed nothing, and that is no loss: "
        "return an empty list. `None` tells it to load all again.",
    ),
)
