"""Why the best known wrong versions of a heartbeat are wrong."""

from __future__ import annotations

from labserver.notebook.workshop.reasons.reason import Reason

WAITS = (
    "somebody waits for a peer. `await connection.ping()` waits behind what the peer "
    "does not read, perhaps for ever; `send_ping()` does not wait."
)

REASONS: tuple[Reason, ...] = (
    Reason(
        "",
        "changed size during iteration",
        "to cut a connection also forgets it, so the loop's own collection changes "
        "under it. Loop over a copy: `list(...)`.",
    ),
    Reason(
        "who_vanished_is_ended",
        "closed with 4408",
        "live peers were ended. A quiet peer is not dead: only a ping that stays "
        "without an answer says so, and the answer needs its time. Look three "
        "quarters of an interval later, at `connection.seen`: the server notes "
        "each answer there; a future of `connection.ping()` never hears of it.",
    ),
    Reason(
        "who_vanished_is_ended",
        "were sent a goodbye",
        "a close frame is a question: `close()` and `end()` wait for the answer, "
        "and the dead do not answer. `cut` does not wait.",
    ),
    Reason(
        "pings_are_no_burst",
        "in vain for a ping(?!.* [1-9][0-9]* of 24 had two)",
        "too few pings were sent: each peer must be pinged again and again, once "
        "an interval, from the moment when the server calls `watch`.",
    ),
    Reason(
        "who_vanished_is_ended",
        "with a full buffer",
        WAITS,
    ),
    # Seen where it is the only one: the pings did not go the way of send_ping.
    Reason("pings_are_spread", "in vain for a ping", WAITS),
    # After WAITS: who waits for a slow peer also cuts it, by chance.
    Reason(
        "who_reads_slowly_stays",
        "was ended",
        "a peer that reads, slowly, was cut. It has your ping behind other messages, "
        "so its answer comes late: while `connection.reads()`, and for a moment after, "
        "it lives.",
    ),
    Reason(
        "dead_peers_are_gone",
        "of 6 dead peers still open after two intervals, 6 counted",
        "they are counted as dead and not ended. `close()` that is not awaited does "
        "nothing at all, and with `await` it waits for the dead to answer. `cut` is "
        "a plain function, which ends the connection at once.",
    ),
    Reason(
        "who_vanished_is_ended",
        "12 of 12 dead peers",
        "the pings go out, and nobody judges the answers: cut a connection where "
        "`pinged > seen`, three quarters of an interval after its ping.",
    ),
    Reason(
        "who_vanished_is_ended",
        r"\d of 12 dead peers",
        "some of the dead were cut and the others stayed. Does a `return` inside "
        "the loop end each sweep at the first dead peer?",
    ),
    Reason(
        "pings_are_no_burst",
        "were pinged within",
        "one timer pings everybody at the same moment, so all pings, all pongs and "
        "all ends come in one burst, once an interval. Give each connection a "
        "random moment of its own, in `watch`.",
    ),
    Reason(
        "dead_peers_are_gone",
        "dead peers still open",
        "they are cut too late. Two intervals must cover the worst case: the peer "
        "vanishes just after it answered, is pinged an interval later, and that "
        "ping alone must decide.",
    ),
    Reason(
        "dead_peers_are_gone",
        "were counted as dead",
        "the peers are gone and the operator does not know: count each with "
        "`metrics.dead += 1`, and end it with the code `HEARTBEAT_LOST`.",
    ),
)
