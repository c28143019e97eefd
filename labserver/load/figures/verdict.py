"""The verdict on a run: did the server fail, and do the figures measure the server?

A run in which the generator was the bottleneck is INVALID, whatever its figures are.
"""

from __future__ import annotations

from dataclasses import dataclass

from labserver.load.figures.generator import uncertainty
from labserver.load.figures.histogram import ms
from labserver.load.figures.record import Record
from labserver.load.figures.trust import doubts, trusted, whole

CPU_LIMIT = 0.8  # of one core; beyond it the generator measures itself
DEMAND_LIMIT = 0.95  # the same with the time that it waited for a processor
LAG_LIMIT = 20.0  # ms of a percentile: below it the generator spoils no run
LATE = 5  # times that limit: how late a generator may be beyond what a percentile shows
SAID = {"slip": "slip", "lag": "lag", "loop": "loop lag"}
OVERDUE, STALLS = "kept too long", "server stalls"  # figures of idle
EXIT_FAILURES, EXIT_NOTHING, EXIT_INVALID = 1, 3, 4


@dataclass(frozen=True)
class Verdict:
    """Exit code of a run, one word, and the reasons."""

    code: int
    word: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.word}: {'; '.join(self.reasons)} (exit {self.code})"


def judge(
    record: Record, failures: int = 0, missing: int = 0, lag_limit: float = LAG_LIMIT
) -> Verdict:
    """Return the verdict on a whole run.

    Args:
        record: The sum of all parts.
        failures: Failed requests, as Locust counts them.
        missing: Worker processes that sent no figures.
        lag_limit: Milliseconds of a percentile that may be the generator's own, even if
            they are most of it.

    """
    if not record.delivered():
        reasons = ["no message was delivered", *silence_reasons(record, missing)]
        return Verdict(EXIT_NOTHING, "NOTHING DELIVERED", tuple(reasons))
    invalid = invalid_reasons(record, missing, lag_limit)
    if failed := failure_reasons(record, failures):
        # A generator that was too busy may be the cause, so name both.
        return Verdict(EXIT_FAILURES, "FAILED", (*failed, *invalid))
    if invalid:
        return Verdict(EXIT_INVALID, "INVALID", tuple(invalid))
    reason = "everything arrived, once and in order"
    if any(tally.unread or tally.told for tally in record.tallies.values()):
        reason += ", except at readers that are slow by design"
    return Verdict(0, "VALID", (reason, *doubts(record)))


def silence_reasons(record: Record, missing: int) -> list[str]:
    """Return known reasons why nothing was delivered."""
    if missing:
        return [f"{missing} worker(s) sent no figures"]
    if record.published.total():
        return []
    if not any(name.endswith("Publisher") for name in record.users):
        return ["no publisher ran: use more users, or also name a ...Publisher class"]
    if record.asked and not record.joined:
        return [
            f"none of {record.asked} users got into a room: does the server speak this "
            "--dialect?"
        ]
    return ["the time was over before publishers began: use a longer -t (--seconds)"]


def failure_reasons(record: Record, failures: int) -> list[str]:
    """Return the failures of the server, as phrases."""
    reasons = []
    for group, tally in sorted(record.tallies.items()):
        for name in ("lost", "duplicated", "reordered"):
            if count := getattr(tally, name):
                reasons.append(f"{count} {name} in {group}")
        if tally.unpublished:
            reasons.append(f"{tally.unpublished} were due, never published in {group}")
        if tally.told and group not in record.by_design:
            reasons.append(f"{tally.told} announced as gaps in {group}")
    for group, count in sorted(record.absent.items()):
        reasons.append(f"{count} user(s) never joined in {group}")
    if record.unanswered:
        reasons.append(f"{record.unanswered} publishes were not acknowledged")
    reasons += [f"{count}x {what}" for what, count in record.problems.most_common(3)]
    if failures and not reasons:
        reasons.append(f"{failures} failed requests, see Locust's error report")
    return reasons


def invalid_reasons(record: Record, missing: int, lag_limit: float) -> list[str]:
    """Return reasons why the figures measure the generator more than the server."""
    reasons = []
    if missing:
        reasons.append(f"{missing} worker(s) sent no figures")
    if record.cpu > CPU_LIMIT:
        reasons.append(
            f"the generator used {record.cpu:.0%} of its core (limit {CPU_LIMIT:.0%}): "
            "use --processes, or fewer users"
        )
    if record.joined < record.asked and not record.absent:
        reasons.append(
            f"of {record.asked} users that were asked for, {record.joined} joined: use "
            "a longer -t (--seconds), or a higher -r"
        )
    if record.late:
        reasons.append(
            f"{record.late} message(s) were due, and the generator had no "
            "time to send them"
        )
    reasons += short_of_processor(record)
    reasons += wrong_clocks(record)
    for name, histogram in sorted(record.latency.items()):
        if name in record.by_design:
            continue
        for percent in (50, 99):
            found = trusted(record, name, percent, histogram)
            spent = found.value * found.own
            if found.mostly_own and spent > lag_limit * 1000:
                reasons.append(
                    f"the p{percent} in {name} measures the generator: it sent "
                    f"{ms(spent)} late, of {ms(found.value)}"
                )
    p99 = whole(record).percentile(99)
    for name in ("slip", "lag", "loop"):
        if name == "loop" and record.lag.count:
            continue  # the kernel says when messages arrived, whatever the loop does
        own = getattr(record, name).percentile(99)
        if own > max(LATE * lag_limit * 1000, p99 / 2):
            reasons.append(
                f"the generator's own {SAID[name]} dominates: its p99 is {ms(own)}, "
                f"the measured one {ms(p99)}"
            )
    return reasons


def short_of_processor(record: Record) -> list[str]:
    """Return the processes that were always running, or waiting to run."""
    return [
        f"{each.name} was short of a processor: it used one for {each.cpu:.0%} of the "
        f"time and waited for one for {each.waited:.0%}"
        for each in record.generators
        if each.cpu <= CPU_LIMIT and each.cpu + each.waited > DEMAND_LIMIT
    ]


def wrong_clocks(record: Record) -> list[str]:
    """Return why the clocks of the processes do not allow a latency between them."""
    reasons = []
    if negative := sum(each.negative for each in record.latency.values()):
        reasons.append(
            f"{negative} message(s) arrived before they were due: the clocks of the "
            "generator's processes differ"
        )
    unsure, p50 = uncertainty(record.generators), whole(record).percentile(50)
    if unsure * 1e6 > p50:
        reasons.append(
            f"the clocks of the generator's machines are compared to {ms(unsure * 1e6)}"
            f" only, and the measured p50 is {ms(p50)}"
        )
    return reasons


def judge_heartbeat(record: Record, stalls: int) -> None:
    """Count dead peers that were kept too long as a failure, unless servers stalled.

    After a stall a server ignores the pings from before it, because their answers may
    be unread in its kernel. From then on a dead peer may be kept for two intervals
    again.
    """
    own = record.own("idle")
    own.counts[STALLS] += stalls
    kept = own.counts[OVERDUE]
    if kept and stalls:
        record.notes["idle"] = (
            f"{kept} dead peer(s) were kept beyond two intervals; but servers stalled "
            f"{stalls} time(s), and the two intervals begin again after a stall."
        )
    elif kept:
        record.problems["idle: a dead peer was kept beyond two intervals"] += kept
