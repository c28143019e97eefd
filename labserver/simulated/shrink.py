"""Makes a failing scenario smaller, as long as it fails in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from labserver.simulated.run import Outcome, run
from labserver.simulated.scenario import Fault, Scenario

TRIES = 120  # runs in which a scenario may become smaller
SALTS = 3  # other chances that a smaller scenario gets
# What may be wrong, in the words of the audit, the gravest first.
KINDS = (
    "duplicated",
    "reordered",
    "unsignalled",
    "altered",
    "different messages",
    "was not told",
    "is gone",
    "dead peer",
    "in vain",
    "goes on",
    "times",
    "different positions",
    "nobody got",
    "still busy",
    "still holds",
    "sees",
    "rejected",
    "tasks failed",
    "fails",
    "logged",
    "asyncio",
    "no end",
)

Run = Callable[[Scenario], Outcome]


def kind(broken: tuple[str, ...]) -> str:
    """Return in which way promises were broken."""
    text = " ".join(broken)
    return next((each for each in KINDS if each in text), "broken" if broken else "")


def shrink(failed: Outcome, runs: Run = run, tries: int = TRIES) -> Outcome:
    """Return the smallest failing world that was found.

    Fewer faults come first, then fewer clients, replicas and rooms, less disorder, and
    shorter times. Whatever is taken away shifts all later chances, so when nothing
    helps, all smaller scenarios get another seed.

    Args:
        failed: A failing world.
        runs: Runs a scenario.
        tries: How many runs this may take.

    """
    found, left = failed, tries
    salt = 0
    while salt < SALTS and left > 0:
        seed = found.scenario.seed.partition("~")[0] + (f"~{salt}" if salt else "")
        for smaller in candidates(found.scenario):
            outcome = runs(replace(smaller, seed=seed))
            left -= 1
            if kind(outcome.broken) == kind(failed.broken):
                found, salt = outcome, -1
                break
            if left <= 0:
                break
        salt += 1
    return found


def candidates(scenario: Scenario) -> Iterator[Scenario]:
    """Yield scenarios that are a little smaller, those that are much smaller first."""
    faults = scenario.faults
    size = len(faults)
    while size > len(faults) // 8:
        yield from _without(scenario, size)
        size //= 2
    yield from _fewer(scenario, lambda count: (1, count // 2))
    while size:
        yield from _without(scenario, size)
        size //= 2
    yield from _fewer(scenario, lambda count: (count - 1,))
    if scenario.disorder:
        yield replace(scenario, disorder=0.0)
    end = max((each.at + each.seconds for each in faults), default=0.0) + 1.0
    if scenario.seconds > end + 1.0:
        yield replace(scenario, seconds=round(end, 1))
    if faults and faults[0].at > 2.0:
        yield replace(scenario, faults=tuple(_sooner(faults)))


def _without(scenario: Scenario, size: int) -> Iterator[Scenario]:
    """Yield scenarios that lack ``size`` faults in a row."""
    faults = scenario.faults
    for start in range(0, len(faults), size):
        yield replace(scenario, faults=faults[:start] + faults[start + size :])


def _fewer(
    scenario: Scenario, counts: Callable[[int], Sequence[int]]
) -> Iterator[Scenario]:
    """Yield scenarios with fewer clients, replicas or rooms."""
    for name in ("clients", "replicas", "rooms"):
        count = getattr(scenario, name)
        for fewer in dict.fromkeys(counts(count)):
            if 1 <= fewer < count:
                changed: dict[str, Any] = {name: fewer}
                yield replace(scenario, **changed)


def _sooner(faults: tuple[Fault, ...]) -> Iterator[Fault]:
    for each in faults:
        yield replace(each, at=round(each.at - faults[0].at + 1.0, 3))


def size(scenario: Scenario) -> str:
    """Return in words how large a scenario is."""
    names = [each.name.replace("_", " ") for each in scenario.faults]
    order = ", in order" if not scenario.disorder else ""
    counts = (
        f"{count} {what}" + ("s" if count != 1 else "")
        for count, what in (
            (scenario.clients, "client"),
            (scenario.replicas, "replica"),
            (scenario.rooms, "room"),
        )
    )
    return f"{', '.join(counts)}{order}; {', '.join(names) or 'no faults'}"
