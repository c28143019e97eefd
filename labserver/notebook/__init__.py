"""What the chapters use: servers, peers, source, pictures and checks.

Everything that a chapter needs beside the package itself is here, so that a notebook
holds only what is to be learned. Needs the extra ``notebooks``.
"""

from __future__ import annotations

from labserver.notebook.charts import bars, byte_map, curves, lanes
from labserver.notebook.checks import check, compare
from labserver.notebook.peers import (
    Peer,
    connected,
    crowd,
    raw,
    silent,
    strangers,
    upgrade,
)
from labserver.notebook.samples import Samples, sampled, watch
from labserver.notebook.servers import running, running_cluster
from labserver.notebook.source import show
from labserver.notebook.twins import Twins, compare_mistake

__all__ = [
    "Peer",
    "Samples",
    "Twins",
    "bars",
    "byte_map",
    "check",
    "compare",
    "compare_mistake",
    "connected",
    "crowd",
    "curves",
    "lanes",
    "raw",
    "running",
    "running_cluster",
    "sampled",
    "show",
    "silent",
    "strangers",
    "upgrade",
    "watch",
]
