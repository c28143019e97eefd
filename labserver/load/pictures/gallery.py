"""The list of pictures of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from labserver.load.figures.saved import Saved
from labserver.load.pictures.drawing import Picture
from labserver.load.pictures.plots import (
    budget,
    by_subscribers,
    group_curve,
    replicas,
    slow_readers,
    timeline,
)
from labserver.load.pictures.special import (
    buffers,
    churn,
    memory,
    omission,
    outage,
    silence,
    storm,
)

Draw = Callable[[Saved], Picture | None]
# The scenario's own pictures first, then what every run has.
OWN: dict[str, tuple[Draw, ...]] = {
    "fanout": (by_subscribers, group_curve, budget),
    "slow_readers": (slow_readers,),
    "replicas": (replicas,),
    "reconnect_storm": (storm, outage),
    "idle": (memory, silence),
    "churn": (churn,),
    "omission": (omission,),
    "mixed": (slow_readers, replicas, group_curve, budget),
}


def pictures(saved: Saved) -> list[Picture]:
    """Return all pictures for which a run has figures."""
    functions = (*OWN.get(saved.scenario, (group_curve,)), timeline)
    found = (function(saved) for function in functions)
    return [each for each in found if each is not None]


def together(runs: Sequence[Saved]) -> list[Picture]:
    """Return the pictures that compare several runs."""
    found = (buffers(runs),)
    return [each for each in found if each is not None]
