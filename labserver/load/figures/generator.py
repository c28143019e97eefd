"""What one process of the generator did to its own measurement."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Generator:
    """Figures of one process, from the first message that was due to the last.

    Args:
        name: Of the machine, and the process there.
        users: Number of its users.
        cpu: Share of the time that it used a processor.
        waited: Share of the time that it was ready to run, and had no processor.
        stolen: Share of its machine's processors that a hypervisor gave to others.
        slip_us: p99 of how late it sent, in microseconds.
        lag_us: p99 of how late it read, in microseconds.
        still: Seconds in which it stood still, in all.
        longest: Seconds that it stood still at once, at most.
        ahead: Seconds that its clock was ahead of the master's; None if it is the same
            clock.
        unsure: Seconds by which that may be wrong.

    """

    name: str = ""
    users: int = 0
    cpu: float = 0.0
    waited: float = 0.0
    stolen: float = 0.0
    slip_us: int = 0
    lag_us: int = 0
    still: float = 0.0
    longest: float = 0.0
    ahead: float | None = None
    unsure: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def uncertainty(generators: list[Generator]) -> float:
    """Return by how many seconds a latency between two of them may be wrong."""
    return sum(sorted(each.unsure for each in generators)[-2:])
