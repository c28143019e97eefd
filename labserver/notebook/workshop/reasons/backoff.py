"""Why the best known wrong versions of a client's backoff are wrong."""

from __future__ import annotations

from labserver.notebook.workshop.reasons.reason import Reason

REASONS: tuple[Reason, ...] = (
    Reason(
        "",
        "OverflowError",
        "`0.5 * 2**attempt` is too large for a float after a thousand attempts: "
        "three hours without a server. The client raises there, and never comes "
        "back. Limit the exponent, too.",
    ),
    Reason(
        "first_waits_are_spread",
        r"wait 0\.00 to 0\.00 s",
        "the first attempt comes at once, from all clients at the same moment. The "
        "first delay is random, too: it decides the peak after a short outage.",
    ),
    Reason(
        "first_waits_are_spread",
        "none waits less",
        "only a part of the wait is random, so clients spread over a part of the "
        "time. Full jitter draws between 0 and the ceiling.",
    ),
    Reason(
        "first_waits_are_spread",
        r"of \d+ wait",
        "all clients lost the same server at the same moment, and now they come "
        "back at the same moment. Multiply the ceiling by `draw()`.",
    ),
    Reason(
        "waits_double_up_to_a_cap",
        "attempt 0 waits up to 1 s",
        "the ceiling is doubled before its first use. After the most common "
        "outage, a short one, everybody waits twice as long as needed.",
    ),
    Reason(
        "waits_double_up_to_a_cap",
        "attempt 0 waits",
        "attempt 0 waits another time than `draw()` times 0.5 s. Is the random "
        "number your own? The probe's `draw` returned 1.0.",
    ),
    Reason(
        "waits_double_up_to_a_cap",
        r"attempt \d+ waits up to (2[1-9]|[3-9]\d|\d{3,})",
        "there is no cap: attempt 10 may wait more than eight minutes, and its "
        "user is gone by then.",
    ),
    Reason(
        "waits_double_up_to_a_cap",
        r"attempt \d+ waits",
        "the ceiling does not double. A crowd that finds the server still away "
        "must thin out fast: 0.5, 1, 2, 4 seconds, and so on.",
    ),
    Reason(
        "late_waits_are_spread",
        "in the end",
        "the cap comes after the draw. In a long outage nearly every draw is above "
        "it, and most clients come back together, every 20 s.",
    ),
    Reason(
        "it_stays_away_when_told",
        "after 4",
        "the close was not obeyed. After 4403 the answer will not change, and "
        "after 4401 it needs another token; so will an unknown code from 4000 on. "
        "A client that asks again and again is load, and an alarm.",
    ),
    Reason(
        "it_stays_away_when_told",
        "after HTTP",
        "a refusal at the door was not obeyed. There is no close then, and "
        "`told.code` is `None`: look at `told.status`.",
    ),
    Reason(
        "it_comes_back_when_it_may",
        "for ever",
        "the server said that this passes, and the client gives up. Stay away only "
        "after `Return.NEVER`, and after `NEW_TOKEN`, as there is no other token.",
    ),
    Reason(
        "it_waits_as_long_as_told",
        "wait the same time",
        "all clients that were refused got the same `Retry-After`, and come back "
        "together when it is over. Add the random wait to it.",
    ),
    Reason(
        "it_waits_as_long_as_told",
        "^waits",
        "the server asked for a time to recover, and did not get it. Wait at least "
        "`told.wait` seconds, and the random time on top.",
    ),
)
