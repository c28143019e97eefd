"""Requirements on a run, for a pipeline: ``p99<100ms``, ``lost=0``.

A requirement is ``[SCENARIO:]FIGURE OPERATOR BOUND``. Without a scenario it is about
all members of the run that are not slow by design. A duration has a unit (``us``,
``ms``, ``s``), a share has ``%``, a count has none.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from labserver.load.figures.histogram import Histogram
from labserver.load.figures.record import Record
from labserver.load.figures.trust import slowest, trusted, until_all, whole
from labserver.load.figures.verdict import EXIT_FAILURES, EXIT_INVALID, Verdict

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6}
ALL = "all."  # before a percentile: of the time until everybody has a message
COUNTS = ("lost", "duplicated", "reordered", "announced", "unanswered")
FORM = re.compile(
    r"\s*(?:(?P<scenario>\w+)\s*:)?\s*(?P<figure>[a-z][a-z0-9.]*)"
    r"\s*(?P<operator><=|>=|<|>|==?)\s*(?P<bound>\d+(?:\.\d+)?)\s*(?P<unit>[a-z%]*)\s*"
)


@dataclass(frozen=True)
class Requirement:
    """One requirement.

    Args:
        text: As it was given.
        scenario: Scenario that it is about; empty for all of a run.
        figure: Name of a figure.
        operator: A key of :data:`OPERATORS`.
        bound: In microseconds, percent, or a number of messages.

    """

    text: str
    scenario: str
    figure: str
    operator: str
    bound: float

    @property
    def kind(self) -> str:
        return kind(self.figure)


@dataclass(frozen=True)
class Answer:
    """What a run says about a requirement; ``seen`` is None if it was not measured."""

    requirement: Requirement
    seen: float | None

    @property
    def met(self) -> bool:
        asked = self.requirement
        return self.seen is not None and OPERATORS[asked.operator](
            self.seen, asked.bound
        )

    def __str__(self) -> str:
        asked = self.requirement
        return f"{asked.figure} is {self.shown()}, required {asked.text}"

    def shown(self) -> str:
        """Return the figure with its unit."""
        if self.seen is None:
            return "not measured"
        if self.requirement.kind == "duration":
            return f"{trimmed(self.seen / 1000)} ms"
        if self.requirement.kind == "share":
            return f"{trimmed(self.seen)} %"
        return f"{self.seen:,.0f}"

    def as_json(self) -> dict[str, Any]:
        return {
            "require": self.requirement.text,
            "figure": self.requirement.figure,
            "seen": self.shown(),
            "met": self.met,
        }


def trimmed(value: float) -> str:
    return f"{value:,.3f}".rstrip("0").rstrip(".")


def kind(figure: str) -> str:
    """Return ``duration``, ``share``, ``count``, or an empty string if unknown."""
    if figure.removeprefix(ALL) == "max" or percent(figure) is not None:
        return "duration"
    if figure == "delivered":
        return "share"
    return "count" if figure in COUNTS else ""


def percent(figure: str) -> float | None:
    """Return the number of a percentile's name, such as ``p99.9``; else None."""
    found = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?|100)", figure.removeprefix(ALL))
    return float(found[1]) if found and float(found[1]) > 0 else None


def parse(text: str) -> Requirement:
    """Return the requirement that a text means.

    Raises:
        ValueError: It means none; the message is a sentence.

    """
    found = FORM.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not a requirement such as 'p99<100ms'")
    figure, unit, bound = found["figure"], found["unit"], float(found["bound"])
    match kind(figure):
        case "duration":
            if unit not in MICROSECONDS:
                raise ValueError(f"{text!r}: {figure} needs a unit: us, ms or s")
            bound *= MICROSECONDS[unit]
        case "share":
            if unit != "%" or bound > 100:
                raise ValueError(f"{text!r}: {figure} is a share: 0% to 100%")
        case "count":
            if unit:
                raise ValueError(f"{text!r}: {figure} is a number without a unit")
        case _:
            raise ValueError(
                f"{text!r}: there is no figure {figure!r}: choose of p50, p95, p99 (or "
                f"another percentile), max, all.p99 (until everybody has it), "
                f"delivered, {', '.join(COUNTS)}"
            )
    sign = "=" if found["operator"] == "==" else found["operator"]
    return Requirement(text.strip(), found["scenario"] or "", figure, sign, bound)


def seen(record: Record, figure: str, scenario: str = "") -> float | None:
    """Return a figure of a run; None if it was not measured.

    Losses and other faults count in all groups. Percentiles, ``delivered`` and
    ``announced`` are those of members that are not slow by design.

    """
    start = f"{scenario}/" if scenario else ""
    if kind(figure) == "duration":
        latency, share = latencies(record, figure, scenario), percent(figure)
        if not latency.count:
            return None
        return float(latency.highest if share is None else latency.percentile(share))
    if figure == "unanswered":
        return float(record.unanswered)
    every = {k: v for k, v in record.tallies.items() if k.startswith(start)}
    prompt = [each for name, each in every.items() if name not in record.by_design]
    if figure == "delivered":
        expected = sum(each.expected for each in prompt)
        arrived = sum(each.delivered for each in prompt)
        return 100 * arrived / expected if expected else None
    if figure == "announced":
        return float(sum(each.told for each in prompt))
    return float(sum(getattr(each, figure) for each in every.values()))


def latencies(record: Record, figure: str, scenario: str) -> Histogram:
    """Return the durations that a figure is a percentile of."""
    if figure.startswith(ALL):
        return slowest(record, scenario)
    return whole(record, f"{scenario}/" if scenario else "")


def unknown(record: Record, answer: Answer) -> str:
    """Return why nobody knows whether a requirement is met; empty if it is known.

    A latency that is too high says nothing about the server when most of it is the
    generator's own, and a percentile says nothing when too many messages were not
    measured.
    """
    asked = answer.requirement
    if asked.kind != "duration" or answer.seen is None:
        return ""
    share = 100.0 if asked.figure == "max" else percent(asked.figure) or 0.0
    if asked.figure.startswith(ALL):
        found = until_all(record, asked.scenario, share)
    else:
        found = trusted(record, f"{asked.scenario}/" if asked.scenario else "", share)
    if not answer.met and found.mostly_own:
        return f"{answer}: {found.own:.0%} of it the generator's own"
    if found.unmeasured > 1 - share / 100 > 0:
        return f"{answer}: {found.unmeasured:.1%} of the messages not measured"
    return ""


def held_to(
    verdict: Verdict, record: Record, required: Sequence[Requirement]
) -> tuple[Verdict, list[Answer]]:
    """Return the verdict on a run that has to meet requirements, and the answers.

    An unmet requirement fails a run, but one that is INVALID, or in which nothing was
    delivered, stays so. A run that cannot answer a requirement is INVALID, too.

    """
    answers = [
        Answer(each, seen(record, each.figure, each.scenario)) for each in required
    ]
    if verdict.code not in (0, EXIT_FAILURES):
        return verdict, answers
    unsure = [why for each in answers if (why := unknown(record, each))]
    unmet = [str(e) for e in answers if not e.met and not unknown(record, e)]
    if unmet or verdict.code == EXIT_FAILURES:
        before = verdict.reasons if verdict.code == EXIT_FAILURES else ()
        return Verdict(EXIT_FAILURES, "FAILED", (*before, *unmet, *unsure)), answers
    if unsure:
        return Verdict(EXIT_INVALID, "INVALID", tuple(unsure)), answers
    return verdict, answers


def lines(answers: Sequence[Answer]) -> list[str]:
    """Return the answers as lines of the summary."""
    return [
        f"  {each.requirement.text:<29} {'met' if each.met else 'NOT MET'}: "
        f"{each.requirement.figure} is {each.shown()}"
        for each in answers
    ]
