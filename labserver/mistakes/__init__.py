"""The well-known wrong versions of every stage, as named twins that run.

Each replaces exactly one part, and is as short and as plausible as what teaches it. A
promise that none of them can break would not be tested: each names the probe that goes
red on it (``labserver.probes``).
"""

from __future__ import annotations

from labserver.mistakes import (
    auth,
    backpressure,
    broker,
    client,
    echo,
    heartbeat,
    resume,
    rooms,
)
from labserver.mistakes.mistake import Mistake

__all__ = ["MISTAKES", "Mistake"]

MODULES = (echo, auth, rooms, heartbeat, backpressure, broker, resume, client)
MISTAKES: dict[str, Mistake] = {
    each.name: each for module in MODULES for each in module.MISTAKES
}
