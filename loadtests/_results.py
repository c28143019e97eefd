"""What a run found: figures of one process, their sum, the verdict, the files.

Every process writes its own part and the parts are added up; a figure that cannot be
added (a percentile) is made from the sum only.
"""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from _audit import Tally
from _budget import Budget
from _figures import Figures
from _hist import Histogram
from _timeline import Slice

CPU_LIMIT = 0.8  # of one core: beyond it the generator is what is measured
LAG_LIMIT = 100.0  # ms: a generator's delay below it never makes a run invalid
SAID = {"slip": "slip", "lag": "lag", "loop": "loop lag"}
EXIT_FAILURES, EXIT_NOTHING, EXIT_INVALID = 1, 3, 4


@dataclass
class Record:
    """The figures of one process, or the sum of several.

    Names of ``latency`` and ``tallies`` are ``scenario/label``. In a group that is
    listed in ``by_design`` it is the scenario's subject that messages come late or
    not; only a fault that no design excuses counts against the run there.
    """

    processes: int = 1
    wall: float = 0.0  # seconds from when everybody was there to the drain
    cpu: float = 0.0  # the busiest process's share of one core
    latency: dict[str, Histogram] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    by_design: set[str] = field(default_factory=set)
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    slip: Histogram = field(default_factory=Histogram)  # from due to sent
    lag: Histogram = field(default_factory=Histogram)  # from arrival to read
    loop: Histogram = field(default_factory=Histogram)  # how late a timer ran
    users: Counter[str] = field(default_factory=Counter)  # by class
    published: Counter[str] = field(default_factory=Counter)  # by scenario
    notes: dict[str, str] = field(default_factory=dict)  # scenario -> a sentence
    unanswered: int = 0  # publishes without ack
    problems: Counter[str] = field(default_factory=Counter)  # sentences
    tops: dict[str, int] = field(default_factory=dict)  # newest seq of each numbering
    # What each group's members had last: numbering -> seq -> members. Only when all
    # processes have told what was published, the tail of each is known.
    ends: dict[str, dict[str, Counter[int]]] = field(default_factory=dict)
    figures: dict[str, Figures] = field(default_factory=dict)  # by scenario
    began: int = 0  # when the run was asked for, monotonic ns
    slices: dict[int, Slice] = field(default_factory=dict)  # by number of the period
    # Of some of the messages, by group: where the time went.
    budgets: dict[str, Budget] = field(default_factory=dict)

    def histogram(self, name: str) -> Histogram:
        return self.latency.setdefault(name, Histogram())

    def tally(self, group: str) -> Tally:
        return self.tallies.setdefault(group, Tally())

    def own(self, scenario: str) -> Figures:
        """Return the figures that only this scenario has."""
        return self.figures.setdefault(scenario, Figures())

    def ended(self, group: str, place: str, last: int) -> None:
        """Note where a member stood when the run was over."""
        places = self.ends.setdefault(group, {})
        places.setdefault(place, Counter())[last] += 1

    def reached(self, place: str, seq: int) -> None:
        """Note that a numbering (a room's, in an epoch) has come to ``seq``."""
        if seq > self.tops.get(place, 0):
            self.tops[place] = seq

    def add(self, other: Record) -> None:
        """Add the figures of other processes."""
        self.processes += other.processes
        self.wall = max(self.wall, other.wall)
        self.cpu = max(self.cpu, other.cpu)
        for name, histogram in other.latency.items():
            self.histogram(name).add(histogram)
        for group, tally in other.tallies.items():
            self.tally(group).__iadd__(tally)
        self.by_design |= other.by_design
        for group, outcomes in other.outcomes.items():
            self.outcomes.setdefault(group, Counter()).update(outcomes)
        self.slip.add(other.slip)
        self.lag.add(other.lag)
        self.loop.add(other.loop)
        self.users.update(other.users)
        self.published.update(other.published)
        self.notes.update(other.notes)
        self.unanswered += other.unanswered
        self.problems.update(other.problems)
        for room, seq in other.tops.items():
            self.reached(room, seq)
        for group, rooms in other.ends.items():
            for room, ends in rooms.items():
                self.ends.setdefault(group, {}).setdefault(room, Counter()).update(ends)
        for scenario, figures in other.figures.items():
            self.own(scenario).add(figures)
        self.began = self.began or other.began
        for number, piece in other.slices.items():
            self.slices.setdefault(number, Slice()).add(piece)
        for group, budget in other.budgets.items():
            self.budgets.setdefault(group, Budget()).add(budget)

    def count_tails(self) -> None:
        """Count what was published after the last message that a member got."""
        for group, rooms in self.ends.items():
            for room, ends in rooms.items():
                top = self.tops.get(room, 0)
                for last, members in ends.items():
                    missed = max(0, top - last) * members
                    self.tally(group).missed_tail(missed, group in self.by_design)
        self.ends.clear()

    def scenarios(self) -> list[str]:
        names = {name.partition("/")[0] for name in [*self.tallies, *self.latency]}
        return sorted(names | set(self.published))

    def delivered(self) -> int:
        return sum(tally.delivered for tally in self.tallies.values())

    def as_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads back."""
        data = {each.name: getattr(self, each.name) for each in fields(self)}
        data["latency"] = {k: v.as_json() for k, v in self.latency.items()}
        data["tallies"] = {k: v.as_json() for k, v in self.tallies.items()}
        data["by_design"] = sorted(self.by_design)
        data["outcomes"] = {k: dict(v) for k, v in self.outcomes.items()}
        for name in ("slip", "lag", "loop"):
            data[name] = data[name].as_json()
        for name in ("users", "published", "problems"):
            data[name] = dict(data[name])
        data["ends"] = {
            group: {room: sorted(ends.items()) for room, ends in rooms.items()}
            for group, rooms in self.ends.items()
        }
        data["figures"] = {k: v.as_json() for k, v in self.figures.items()}
        data["slices"] = [[n, each.as_json()] for n, each in self.slices.items()]
        data["budgets"] = {k: v.as_json() for k, v in self.budgets.items()}
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        data = dict(data)
        data["latency"] = {
            k: Histogram.from_json(v) for k, v in data["latency"].items()
        }
        data["tallies"] = {k: Tally(**v) for k, v in data["tallies"].items()}
        data["by_design"] = set(data["by_design"])
        data["outcomes"] = {k: Counter(v) for k, v in data["outcomes"].items()}
        for name in ("slip", "lag", "loop"):
            data[name] = Histogram.from_json(data[name])
        for name in ("users", "published", "problems"):
            data[name] = Counter(data[name])
        data["ends"] = {
            group: {room: Counter(dict(ends)) for room, ends in rooms.items()}
            for group, rooms in data["ends"].items()
        }
        data["figures"] = {k: Figures.from_json(v) for k, v in data["figures"].items()}
        data["slices"] = {n: Slice.from_json(each) for n, each in data["slices"]}
        data["budgets"] = {k: Budget.from_json(v) for k, v in data["budgets"].items()}
        return cls(**data)


def merged(parts: Iterable[Record]) -> Record:
    """Return the sum of all parts, with the tails counted."""
    whole = Record(processes=0)
    for part in parts:
        whole.add(part)
    whole.count_tails()
    return whole


@dataclass(frozen=True)
class Verdict:
    """What to make of a run: exit code, one word, and why."""

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
        missing: Processes that took part and told nothing.
        lag_limit: Milliseconds of delay that a generator may have of its own.

    """
    if not record.delivered():
        reasons = ["not one message was delivered", *silence_reasons(record, missing)]
        return Verdict(EXIT_NOTHING, "NOTHING DELIVERED", tuple(reasons))
    invalid = invalid_reasons(record, missing, lag_limit)
    if failed := failure_reasons(record, failures):
        # A generator that was too busy may be why: who reads both can tell.
        return Verdict(EXIT_FAILURES, "FAILED", (*failed, *invalid))
    if invalid:
        return Verdict(EXIT_INVALID, "INVALID", tuple(invalid))
    reason = "everything arrived, once and in order"
    if any(tally.unread or tally.told for tally in record.tallies.values()):
        reason += ", but to those who are slow by design"
    return Verdict(0, "VALID", (reason,))


def silence_reasons(record: Record, missing: int) -> list[str]:
    """Return why nothing can have been delivered, as far as the generator knows."""
    if missing:
        return [f"{missing} worker(s) told nothing"]
    if record.published.total():
        return []
    if any(name.endswith("Publisher") for name in record.users):
        return ["time was up before all had joined and publishers began: more -t"]
    return ["no publisher ran: take more users, or name a ...Publisher class too"]


def failure_reasons(record: Record, failures: int) -> list[str]:
    """Return what the server did that it must not do."""
    reasons = []
    for group, tally in sorted(record.tallies.items()):
        for name in ("lost", "duplicated", "reordered"):
            if count := getattr(tally, name):
                reasons.append(f"{count} {name} in {group}")
        if tally.told and group not in record.by_design:
            reasons.append(f"{tally.told} announced as gaps in {group}")
    if record.unanswered:
        reasons.append(f"{record.unanswered} publishes were not acknowledged")
    reasons += [f"{count}x {what}" for what, count in record.problems.most_common(3)]
    if failures and not reasons:
        reasons.append(f"{failures} failed requests, see Locust's error report")
    return reasons


def invalid_reasons(record: Record, missing: int, lag_limit: float) -> list[str]:
    """Return why the figures say more about the generator than about the server."""
    reasons = []
    if missing:
        reasons.append(f"{missing} worker(s) told nothing")
    if record.cpu > CPU_LIMIT:
        reasons.append(
            f"the generator used {record.cpu:.0%} of its core (limit {CPU_LIMIT:.0%}): "
            "use --processes, or fewer users"
        )
    p99 = prompt(record).percentile(99)
    for name in ("slip", "lag", "loop"):
        own = getattr(record, name).percentile(99)
        if own > max(lag_limit * 1000, p99 / 2):
            reasons.append(
                f"the generator's own {SAID[name]} dominates: its p99 is {ms(own)}, "
                f"the measured one {ms(p99)}"
            )
    return reasons


def prompt(record: Record) -> Histogram:
    """Return the latencies of all who are not late by design."""
    return Histogram.merged(
        histogram
        for name, histogram in record.latency.items()
        if name not in record.by_design
    )


def ms(microseconds: float) -> str:
    """Return a duration as text, with two significant figures at least."""
    value = microseconds / 1000
    return f"{value:.2f} ms" if value < 10 else f"{value:,.0f} ms"


def summary(record: Record, verdict: Verdict) -> str:
    """Return the page that is printed when a run is over."""
    lines = []
    for scenario in record.scenarios():
        lines.append("")
        lines.append(scenario)
        for group, tally in sorted(record.tallies.items()):
            if group.startswith(f"{scenario}/"):
                lines += _group(group, tally, record)
        for name, histogram in sorted(record.latency.items()):
            if name.startswith(f"{scenario}/") and histogram.count:
                lines.append(_latency(name.partition("/")[2], histogram))
        if scenario in record.figures:
            lines += record.figures[scenario].lines()
        if scenario in record.notes:
            lines.append(f"  {record.notes[scenario]}")
    lines += [
        "",
        "generator",
        f"  {'sent late by':<29} p50 {ms(record.slip.percentile(50)):>9}"
        f"   p99 {ms(record.slip.percentile(99)):>9}   (in the latencies above)",
    ]
    if record.lag.count:
        lines.append(
            f"  {'read late by':<29} p50 {ms(record.lag.percentile(50)):>9}"
            f"   p99 {ms(record.lag.percentile(99)):>9}   (not in them)"
        )
    if record.loop.count:
        lines.append(
            f"  {'its timers late by':<29} p50 {ms(record.loop.percentile(50)):>9}"
            f"   p99 {ms(record.loop.percentile(99)):>9}"
        )
    processes = "process" if record.processes == 1 else "processes"
    lines.append(
        f"  {'processor':<29} {record.cpu:.0%} of one core, "
        f"{record.processes} {processes}, {record.wall:.1f} s"
    )
    lines += ["", f"verdict  {verdict}"]
    return "\n".join(lines)


def _group(group: str, tally: Tally, record: Record) -> list[str]:
    name = group.partition("/")[2]
    told = f", announced gaps {tally.told:,}" if tally.told else ""
    told += f", never read {tally.unread:,}" if tally.unread else ""
    line = (
        f"  {name:<29} {tally.delivered:,} of {tally.expected:,} delivered, "
        f"lost {tally.lost:,}, duplicated {tally.duplicated:,}, "
        f"reordered {tally.reordered:,}{told}"
    )
    lines = [line]
    if group in record.by_design:
        for what, count in sorted(record.outcomes.get(group, {}).items()):
            lines.append(f"  {'':<29} by design: {count}x {what}")
    return lines


def _latency(name: str, histogram: Histogram) -> str:
    return (
        f"  {name:<29} p50 {ms(histogram.percentile(50)):>9}"
        f"   p99 {ms(histogram.percentile(99)):>9}"
        f"   max {ms(histogram.highest):>9}   from due"
    )


def as_figures(record: Record, verdict: Verdict) -> dict[str, Any]:
    """Return ``summary.json``: the figures that were printed, for programs."""
    latency = {}
    for name, histogram in record.latency.items():
        latency[name] = histogram.percentiles()
    return {
        "verdict": verdict.word,
        "exit_code": verdict.code,
        "reasons": list(verdict.reasons),
        "delivered": record.delivered(),
        "expected": sum(tally.expected for tally in record.tallies.values()),
        "completeness": {k: v.as_json() for k, v in record.tallies.items()},
        "by_design": {
            group: dict(record.outcomes.get(group, {}))
            for group in sorted(record.by_design)
        },
        "latency_from_due_us": latency,
        "published": dict(record.published),
        "unanswered": record.unanswered,
        "problems": dict(record.problems),
        "figures": {k: v.told(record.began) for k, v in record.figures.items()},
        "generator": {
            "slip_us": record.slip.percentiles(),
            "lag_us": record.lag.percentiles(),
            "loop_lag_us": record.loop.percentiles(),
            "cpu_share": round(record.cpu, 4),
            "processes": record.processes,
            "seconds": round(record.wall, 3),
        },
    }


def machine() -> str:
    """Return the machine that figures depend on, in one line."""
    model = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # not Linux
    return f"{os.cpu_count()} cores ({model}), {platform.system()}"


def versions() -> dict[str, str]:
    """Return what else figures depend on."""
    names = ("websockets", "redis", "msgspec")
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
    }


def write(path: Path, data: Any) -> None:
    """Write ``data`` as JSON, in whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(data, indent=1) + "\n")
    draft.replace(path)
