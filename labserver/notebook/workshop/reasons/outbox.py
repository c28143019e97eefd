"""Why the best known wrong versions of an outbox are wrong."""

from __future__ import annotations

from labserver.notebook.workshop.reasons.reason import Reason

SLOW = (
    "a reader that is slow, and reads, was cut. Remember `connection.taken()` in "
    "`paused`; if it has grown when the timer ends, wait once more."
)

REASONS: tuple[Reason, ...] = (
    Reason(
        "what_is_held_stays_bounded",
        "more wait in the transport",
        "what the transport holds changes while the socket is full: ask "
        "`transport.get_write_buffer_size()` each time, and add your queue.",
    ),
    Reason(
        "what_is_held_stays_bounded",
        "bytes held, limit",
        "what waits has no limit, or not all of it is counted. What waits is what "
        "is in your queue and what is in the transport, and at most `outbox_limit` "
        "bytes of it may wait.",
    ),
    Reason(
        "who_is_stuck_is_ended",
        "still connected",
        "a reader that takes no byte is kept for ever, with all that waits for it. "
        "Begin a timer in `paused`, and `cut` if nothing was taken when it ends.",
    ),
    Reason(
        "who_reads_slowly_stays",
        "was ended",
        SLOW,
    ),
    Reason("who_reads_no_more_is_ended", "was ended", SLOW),
    Reason(
        "answers_are_never_dropped",
        "answers were dropped",
        "the limit was applied to answers, too. A client waits for each of them, "
        "perhaps for ever. Hold them, and end a client that asks without reading.",
    ),
    Reason(
        "every_loss_is_told",
        "reordered [1-9]",
        "something overtook what was waiting. While anything waits, everything "
        "else goes through the queue, also an answer and the notice of a loss.",
    ),
    Reason(
        "every_loss_is_told",
        "unsignalled gaps [1-9]",
        "the notice covers less than was lost: it must name the first and the last "
        "of the messages that are missing.",
    ),
    Reason(
        "every_loss_is_told",
        "in vain for a drop|rate_limited",
        "nothing was counted as dropped. This task asks for `drop-newest`: what "
        "does not fit is lost, and `metrics.drops` counts it, message by message.",
    ),
    Reason(
        "every_loss_is_told",
        "in vain for the rest|in vain for an empty outbox",
        "the reader reads again, and what waited for it never comes: `resumed` "
        "must write from the queue, until the socket is full again.",
    ),
    Reason(
        "who_reads_no_more_is_ended",
        "still connected",
        "a reader that once took something, and then nothing, is kept for ever. Each "
        "time that the timer ends and `connection.taken()` has grown, remember the new "
        "number, and begin the timer again.",
    ),
    Reason(
        "every_loss_is_told",
        "lost without a gap",
        "a loss without a word. The reader must get a `gap` for it, and before any "
        "answer that comes later: who gets that answer believes to have all that "
        "was sent before.",
    ),
)
