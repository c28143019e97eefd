"""The list of pictures of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from labserver.load.figures.saved import Saved
from labserver.load.pictures.beside import broker, buffers, control
from labserver.load.pictures.drawing import Picture
from labserver.load.pictures.over_time import timeline
from labserver.load.pictures.plots import (
    budget,
    group_curve,
    replicas,
    slow_readers,
)
from labserver.load.pictures.special import (
    churn,
    memory,
    outage,
    silence,
    storm,
)
from labserver.load.pictures.steps import by_subscribers

Draw = Callable[[Saved], Picture | None]
# The scenario's own pictures first, then what every run has.
OWN: dict[str, tuple[Draw, ...]] = {
    "fanout": (by_subscribers, group_curve, budget),
    "slow_readers": (slow_readers,),
    "replicas": (replicas,),
    "reconnect_storm": (storm, outage),
    "idle": (memory, silence),
    "churn": (churn,),
    "mixed": (slow_readers, replicas, group_curve, budget),
}


def pictures(saved: Saved) -> list[Picture]:
    """Return all pictures for which a run has figures."""
    functions = (*OWN.get(saved.scenario, (group_curve,)), timeline)
    found = (function(saved) for function in functions)
    return [each for each in found if each is not None]


def together(runs: Sequence[Saved]) -> list[tuple[Picture, list[Saved]]]:
    """Return the pictures that compare several runs, each with its runs."""
    found = []
    for scenario, draw in (
        ("slow_readers", control),
        ("slow_readers", buffers),
        ("replicas", broker),
    ):
        mine = [run for run in runs if run.scenario == scenario]
        if mine and (picture := draw(mine)) is not None:
            found.append((picture, mine))
    return found
