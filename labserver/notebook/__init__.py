"""What the chapters use: servers, peers, source, pictures and checks.

Everything that a chapter needs beside the package itself is here, so that a notebook
only has the subject of its chapter. Needs the extra ``notebooks``.
"""

from __future__ import annotations

from labserver.load.figures.results import machine
from labserver.notebook.charts import bars, curves, fitted, lanes, layers
from labserver.notebook.experiments.absences import absence, losses
from labserver.notebook.experiments.codings import footprint, growth, quotes
from labserver.notebook.experiments.fanout import costs
from labserver.notebook.experiments.flames import flames
from labserver.notebook.experiments.load import six
from labserver.notebook.experiments.loops import (
    dawdling,
    generators,
    percentile,
    stall_picture,
    through_a_stall,
)
from labserver.notebook.experiments.presence import Ghosts, know, told
from labserver.notebook.experiments.replicas import carried, duet
from labserver.notebook.experiments.slow import flood, latencies, policies
from labserver.notebook.experiments.storms import modelled, storm
from labserver.notebook.experiments.strangers import toll
from labserver.notebook.experiments.transport_costs import (
    decision,
    idle_cost,
    publishing,
)
from labserver.notebook.experiments.transports import three_ways
from labserver.notebook.experiments.vanishing import expected, vanished
from labserver.notebook.frames import frame_map, take_apart
from labserver.notebook.peers import (
    Peer,
    connected,
    crowd,
    raw,
    silent,
    upgrade,
)
from labserver.notebook.progress import progress
from labserver.notebook.samples import watch
from labserver.notebook.servers import running, running_cluster
from labserver.notebook.sizing.fitting import fits, middle, predicted, this_machine
from labserver.notebook.sizing.fleet import Demand, about, comeback, plan
from labserver.notebook.sizing.ledger import LOADS, Load, entries, idle
from labserver.notebook.sizing.pictures import causes, hearing, returns
from labserver.notebook.source import excerpt, show
from labserver.notebook.start import doctor, stage_map
from labserver.notebook.workshop.checks import check, compare
from labserver.notebook.workshop.duel import duel
from labserver.notebook.workshop.own_server import judge, starter
from labserver.notebook.workshop.probed import Probed
from labserver.notebook.workshop.probing import probe
from labserver.notebook.workshop.twins import Mistakes, mistakes

# The prediction of a learner who made none; the "Predict" cell of a chapter sets it. It
# is also here, so that a chapter can be run from its middle.
my_guess: float | None = None

__all__ = [
    "Demand",
    "Ghosts",
    "LOADS",
    "Load",
    "Mistakes",
    "Peer",
    "Probed",
    "about",
    "absence",
    "bars",
    "carried",
    "causes",
    "check",
    "comeback",
    "compare",
    "connected",
    "costs",
    "crowd",
    "curves",
    "dawdling",
    "decision",
    "doctor",
    "duel",
    "duet",
    "entries",
    "excerpt",
    "expected",
    "fits",
    "fitted",
    "flames",
    "flood",
    "footprint",
    "frame_map",
    "generators",
    "growth",
    "hearing",
    "idle",
    "idle_cost",
    "judge",
    "know",
    "lanes",
    "latencies",
    "layers",
    "losses",
    "machine",
    "middle",
    "mistakes",
    "modelled",
    "my_guess",
    "percentile",
    "plan",
    "policies",
    "predicted",
    "probe",
    "progress",
    "publishing",
    "quotes",
    "raw",
    "returns",
    "running",
    "running_cluster",
    "show",
    "silent",
    "six",
    "stage_map",
    "stall_picture",
    "starter",
    "storm",
    "take_apart",
    "this_machine",
    "three_ways",
    "through_a_stall",
    "told",
    "toll",
    "upgrade",
    "vanished",
    "watch",
]
